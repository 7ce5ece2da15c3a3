//! The edit list of an MP4 file, which symphonia does not apply: where in the coded samples the recording begins and ends
//! (AAC encoders put 1024 or 2112 samples of priming first).

use std::io::{self, Read, Seek, SeekFrom};

/// More than this is no header of a recording.
const MAX_MOOV_BYTES: u64 = 256 << 20;

/// The part of a track to present (ISO/IEC 14496-12 §8.6.6), by its first edit that is not empty.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Edit {
    /// Where it begins, in units of the track's timescale.
    pub(super) start: u64,
    /// How long it is, in units of the movie's timescale; 0 for all the rest.
    pub(super) duration: u64,
    /// Units a second of `duration`.
    pub(super) movie_timescale: u32,
}

/// The edit of track `track_id`; `None` if it has none, or if the file's boxes make no sense (the decoder will say so).
pub(super) fn edit(file: &mut (impl Read + Seek), track_id: u32) -> io::Result<Option<Edit>> {
    let end = file.seek(SeekFrom::End(0))?;
    let mut at = 0;
    while at + 8 <= end {
        let mut head = [0; 16];
        file.seek(SeekFrom::Start(at))?;
        let read = (end - at).min(16) as usize;
        file.read_exact(&mut head[..read])?;
        let Some((size, header)) = box_size(&head[..read], end - at) else { return Ok(None) };
        if &head[4..8] == b"moov" {
            if size > MAX_MOOV_BYTES {
                return Ok(None);
            }
            let mut moov = vec![0; (size - header) as usize];
            file.seek(SeekFrom::Start(at + header))?;
            file.read_exact(&mut moov)?;
            return Ok(edit_in_moov(&moov, track_id));
        }
        at += size;
    }
    Ok(None)
}

/// The size of a box and of its header, within `room` bytes.
fn box_size(head: &[u8], room: u64) -> Option<(u64, u64)> {
    let (size, header) = match u32_at(head, 0)? {
        0 => (room, 8),
        1 => (u64_at(head, 8)?, 16),
        size => (u64::from(size), 8),
    };
    (size >= header && size <= room).then_some((size, header))
}

fn edit_in_moov(moov: &[u8], track_id: u32) -> Option<Edit> {
    let mvhd = child(moov, b"mvhd")?;
    let movie_timescale = u32_at(mvhd, if mvhd.first()? == &1 { 20 } else { 12 })?;
    let mut rest = moov;
    while let Some((name, body, after)) = next_box(rest) {
        rest = after;
        if name == b"trak" {
            let tkhd = child(body, b"tkhd")?;
            if u32_at(tkhd, if tkhd.first()? == &1 { 20 } else { 12 })? == track_id {
                let elst = child(child(body, b"edts")?, b"elst")?;
                return first_edit(elst, movie_timescale);
            }
        }
    }
    None
}

fn first_edit(elst: &[u8], movie_timescale: u32) -> Option<Edit> {
    let long = elst.first()? == &1;
    let entry_size = if long { 20 } else { 12 };
    for i in 0..u32_at(elst, 4)? as usize {
        let entry = elst.get(8 + i * entry_size..)?;
        let (duration, start) = match long {
            true => (u64_at(entry, 0)?, u64_at(entry, 8)?.cast_signed()),
            false => (u32_at(entry, 0)?.into(), u32_at(entry, 4)?.cast_signed().into()),
        };
        // A start of -1 is silence before the recording.
        if let Ok(start) = u64::try_from(start) {
            return (movie_timescale > 0).then_some(Edit { start, duration, movie_timescale });
        }
    }
    None
}

/// The name and body of the first box in `bytes`, and what follows it.
fn next_box(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let (size, header) = box_size(bytes, bytes.len() as u64)?;
    let (whole, after) = bytes.split_at(size as usize);
    Some((whole.get(4..8)?, &whole[header as usize..], after))
}

fn child<'a>(mut bytes: &'a [u8], wanted: &[u8; 4]) -> Option<&'a [u8]> {
    while let Some((name, body, after)) = next_box(bytes) {
        if name == wanted {
            return Some(body);
        }
        bytes = after;
    }
    None
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_be_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}
