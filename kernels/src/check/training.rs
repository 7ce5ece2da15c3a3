//! What comes after the gradients: f32 masters, whatever the model computes in.

use candle_core::{DType, Device, Tensor};

use super::{Check, host};
use crate::step_control::Decision;
use crate::tensor::to_host;
use crate::{Error, Result, accumulate, adamw, checksum, grad_norm, sgd, upload};

pub(super) fn run(check: &mut Check) {
    for n in [4097, 40_000] {
        check.attempt("optimizers", |check| steps(check, n));
    }
    check.attempt("sums", sums);
}

fn sums(check: &mut Check) -> Result<()> {
    let ((x, xs), (y, ys)) = (check.random(1, &[5000])?, check.random(2, &[33])?);
    let want = grad_norm::reference::sum_of_squares(&xs) + grad_norm::reference::sum_of_squares(&ys);
    check.compare_within("grad_norm", "two tensors", &grad_norm::sum_of_squares(&[&x, &y])?, &[want], 1e-12)?;
    let (sum, sums) = check.random(3, &[5000])?;
    accumulate::add(&sum, &x)?;
    check.compare("accumulate", "sum", &sum, &accumulate::reference::add(&sums, &xs))?;
    accumulate::zero(&sum)?;
    check.compare("accumulate", "zero", &sum, &[0.0; 5000])?;
    checksums(check)
}

/// Numbers that take more than all pinned buffers hold.
const UPLOADED: u32 = 11_000_001;

/// Bit by bit, views that begin anywhere among them.
fn checksums(check: &mut Check) -> Result<()> {
    for dtype in [DType::F32, DType::BF16] {
        check.dtype = dtype;
        let lists = [1, 5000, 100_003].map(|n| check.random(n as u64, &[n]));
        let whole = lists.into_iter().map(|made| Ok(made?.0)).collect::<Result<Vec<_>>>()?;
        let views = whole.iter().map(|t| Ok(t.narrow(0, 1, t.elem_count() - 1)?)).collect::<Result<Vec<_>>>()?;
        let all: Vec<&Tensor> = whole.iter().chain(&views).filter(|t| t.elem_count() > 0).collect();
        let bits = |t: &Tensor| Ok::<Vec<u32>, Error>(to_host(t)?.into_iter().map(f32::to_bits).collect());
        let of = |t: &&Tensor| Ok(checksum::reference::checksum(&bits(t)?));
        let want = all.iter().map(of).collect::<Result<Vec<u64>>>()?;
        check.equal("checksum", format!("{} tensors", all.len()), &checksum::checksums(&all)?, &want);
    }
    check.dtype = DType::F32;
    let n = UPLOADED as f32;
    let there = upload::to_device(&Tensor::arange(0.0, n, &Device::Cpu)?, check.device)?;
    let bits: Vec<u32> = (0..UPLOADED).map(|i| (i as f32).to_bits()).collect();
    let (got, want) = (checksum::checksums(&[&there])?, checksum::reference::checksum(&bits));
    check.equal("upload", format!("{UPLOADED} numbers"), &got, &[want]);
    Ok(())
}

fn steps(check: &mut Check, n: usize) -> Result<()> {
    let zeros = || Ok::<Tensor, crate::Error>(Tensor::zeros(n, DType::F32, check.device)?);
    let (m, v, buffer) = (zeros()?, zeros()?, zeros()?);
    let ((p, mut want), (q, mut want_q)) = (check.random(1, &[n])?, check.random(2, &[n])?);
    let compute = p.to_dtype(DType::BF16)?;
    let (mut want_m, mut want_v, mut want_buffer) = (vec![0.0; n], vec![0.0; n], vec![0.0; n]);
    for step in 1..=3 {
        let (g, gs) = check.random(10 + step, &[n])?;
        let decision = Decision::Taken { step, grad_scale: 0.5 };
        let hyper = adamw::Hyper { lr: 1e-2, beta1: 0.9, beta2: 0.98, eps: 1e-6, weight_decay: 0.1, decision };
        adamw::step(&p, &m, &v, &g, Some(&compute), hyper)?;
        adamw::reference::step(&mut want, &mut want_m, &mut want_v, &gs, hyper, step, 0.5);
        let hyper = sgd::Hyper { lr: 1e-2, momentum: 0.9, weight_decay: 0.1, decision };
        sgd::step(&q, Some(&buffer), &g, None, hyper)?;
        sgd::reference::step(&mut want_q, &mut want_buffer, &gs, hyper, 0.5);
    }
    let at = |what: &str| format!("{what} of {n} after 3 steps");
    check.compare("adamw", at("parameters"), &p, &want)?;
    check.compare("adamw", at("moments"), &v, &want_v)?;
    check.compare_within("adamw", at("bf16 copy"), &compute, &host(&p)?, 4e-3)?;
    check.compare("sgd", at("parameters"), &q, &want_q)
}
