//! By way of buffers that go round.

use candle_core::Tensor;

use super::ring::Ring;
use super::{Wanted, stretches};
use crate::Result;
use crate::parallel::map_each;

/// Buffers of [`super::STRETCH`] bytes: enough for a few threads that fill one each while others are under way.
pub(crate) const BUFFERS: usize = 8;

/// A device, and the buffers whose bytes are copied to it.
pub(crate) trait Link: Sync {
    type Buffer: Send;

    /// The buffers, each of [`super::STRETCH`] bytes.
    fn ring(&self) -> &Ring<Self::Buffer>;

    /// A tensor that is only to be written by [`Link::send`] before [`Link::join`].
    fn allocate(&self, wanted: &Wanted) -> Result<Tensor>;

    /// The bytes of `buffer`, once what was sent of it before has arrived.
    fn ready<'a>(&self, buffer: &'a mut Self::Buffer) -> Result<&'a mut [u8]>;

    /// Has the first `count` bytes of `buffer` copied to `to`, from its byte `first` on.
    fn send(&self, buffer: &mut Self::Buffer, count: usize, to: &Tensor, first: usize) -> Result<()>;

    /// Has all that was sent arrive before what the device is asked for next.
    fn join(&self) -> Result<()>;
}

pub(crate) fn tensors<L: Link>(
    link: &L,
    wanted: &[Wanted],
    fill: impl Fn(usize, usize, &mut [u8]) + Sync,
) -> Result<Vec<Tensor>> {
    let tensors = wanted.iter().map(|wanted| link.allocate(wanted)).collect::<Result<Vec<_>>>()?;
    let work = wanted.iter().map(Wanted::bytes).sum();
    let sent = map_each(stretches(wanted), work, |_, (i, range)| {
        link.ring().with(|buffer| {
            fill(i, range.start, &mut link.ready(buffer)?[..range.len()]);
            link.send(buffer, range.len(), &tensors[i], range.start)
        })
    });
    // Whatever happened: no memory is given back that something is under way to.
    link.join()?;
    sent.into_iter().collect::<Result<()>>()?;
    Ok(tensors)
}
