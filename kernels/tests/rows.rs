//! Moving rows against the definition.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;
use common::*;
use echat_kernels::SeqLens;
use echat_kernels::rows::{gather, reference, replace, replace_backward, scatter, zero_columns};

/// Rows of sources of 1, 40 and 7 rows, some taken often.
fn index(count: usize) -> Vec<(u32, u32)> {
    (0..count as u32).map(|i| [(0, 0), (1, i * 3 % 40), (2, i % 7)][(i % 3) as usize]).collect()
}

#[test]
fn gather_and_scatter_match_the_reference() {
    for (count, d) in [(1, 1), (10, 5), (400, 64), (0, 3)] {
        let sources = [random(1, &[1, d]), random(2, &[40, d]), random(3, &[7, d])];
        let (index, grad) = (index(count), random(4, &[count, d]));
        let y = gather(&sources.iter().collect::<Vec<_>>(), &index).unwrap();
        assert_eq!(y.dims(), [count, d]);
        let values: Vec<Vec<f64>> = sources.iter().map(to_f64).collect();
        let values: Vec<&[f64]> = values.iter().map(Vec::as_slice).collect();
        assert_eq!(to_f64(&y), reference::gather(&values, &index, d));
        for (source, tensor) in sources.iter().enumerate() {
            let rows = tensor.dims()[0];
            let got = scatter(&grad, &index, source, rows).unwrap();
            assert_eq!(got.dims(), tensor.dims());
            assert_close(&got, &reference::scatter(&to_f64(&grad), &index, source, rows, d), 2e-6, "scatter");
        }
    }
}

#[test]
fn replace_matches_the_reference() {
    for (t, d, rows) in
        [(1, 1, vec![0]), (9, 5, vec![3, 8, 3]), (400, 64, (0..399).step_by(3).collect()), (0, 3, vec![])]
    {
        let (x, with, g) = (random(1, &[t, d]), random(2, &[d]), random(3, &[t, d]));
        let y = replace(&x, &rows, &with).unwrap();
        assert_eq!(to_f64(&y), reference::replace(&to_f64(&x), &rows, &to_f64(&with)));
        let (dx, dwith) = replace_backward(&g, &rows).unwrap();
        let (want_dx, want_dwith) = reference::replace_backward(&to_f64(&g), &rows, d);
        assert_eq!(to_f64(&dx), want_dx);
        assert_close(&dwith, &want_dwith, 2e-6, "dwith");
    }
}

#[test]
fn stores_bf16() {
    let sources = [bf16(&random(1, &[1, 6])), bf16(&random(2, &[40, 6])), random(3, &[7, 6])];
    let y = gather(&sources.iter().collect::<Vec<_>>(), &[(1, 39), (0, 0)]).unwrap();
    assert_eq!(y.dtype(), candle_core::DType::BF16);
    assert_eq!(bits(&y.get(0).unwrap()), bits(&sources[1].get(39).unwrap()));
    let grad = bf16(&random(4, &[2, 6]));
    let back = scatter(&grad, &[(1, 39), (0, 0)], 1, 40).unwrap();
    assert_eq!(back.dtype(), candle_core::DType::BF16);
    assert_eq!(bits(&back.get(39).unwrap()), bits(&grad.get(0).unwrap()));
    let (x, with) = (bf16(&random(5, &[4, 6])), bf16(&random(6, &[6])));
    let y = replace(&x, &[2], &with).unwrap();
    assert_eq!(to_f64(&y), reference::replace(&to_f64(&x), &[2], &to_f64(&with)));
    let (dx, dwith) = replace_backward(&x, &[2]).unwrap();
    assert_eq!((dx.dtype(), dwith.dtype()), (candle_core::DType::BF16, candle_core::DType::F32));
    assert_eq!(bits(&dwith), bits(&x.get(2).unwrap()));
}

#[test]
fn reference_gradients_are_finite_differences() {
    let (a, b, g) = (to_f64(&random(1, &[2, 3])), to_f64(&random(2, &[3, 3])), to_f64(&random(3, &[5, 3])));
    let index = [(1, 2), (0, 1), (1, 2), (1, 0), (0, 0)];
    let dot = |y: &[f64]| y.iter().zip(&g).map(|(y, g)| y * g).sum::<f64>();
    let want = finite_difference(|b| dot(&reference::gather(&[&a, b], &index, 3)), &b);
    assert!(rel_l2(&reference::scatter(&g, &index, 1, 3, 3), &want) <= 1e-8);
    let (x, with, rows) = (to_f64(&random(4, &[5, 3])), to_f64(&random(5, &[3])), [1, 4, 1]);
    let (dx, dwith) = reference::replace_backward(&g, &rows, 3);
    assert!(rel_l2(&dx, &finite_difference(|x| dot(&reference::replace(x, &rows, &with)), &x)) <= 1e-8);
    assert!(rel_l2(&dwith, &finite_difference(|with| dot(&reference::replace(&x, &rows, with)), &with)) <= 1e-8);
}

#[test]
fn does_not_depend_on_the_number_of_threads() {
    let (grad, index) = (random(1, &[900, 64]), index(900));
    let rows: Vec<u32> = (0..900).step_by(2).collect();
    let run = |threads| {
        at_threads(threads, || {
            let (dx, dwith) = replace_backward(&grad, &rows).unwrap();
            [bits(&scatter(&grad, &index, 1, 400).unwrap()), bits(&dx), bits(&dwith)]
        })
    };
    let one = run(1);
    assert_eq!(one, run(2));
    assert_eq!(one, run(3));
}

#[test]
fn wrong_shapes_and_indices_are_errors() {
    let (a, b) = (random(1, &[2, 3]), random(2, &[2, 4]));
    assert!(gather(&[], &[]).is_err());
    assert!(gather(&[&a, &b], &[]).is_err());
    assert!(gather(&[&a], &[(1, 0)]).is_err());
    assert!(gather(&[&a], &[(0, 2)]).is_err());
    assert!(scatter(&a, &[(0, 0)], 0, 2).is_err());
    assert!(scatter(&a, &[(0, 0), (0, 2)], 0, 2).is_err());
    assert!(replace(&a, &[2], &random(1, &[3])).is_err());
    assert!(replace(&a, &[0], &random(1, &[4])).is_err());
    assert!(replace_backward(&a, &[2]).is_err());
}

#[test]
fn zero_columns_matches_the_reference_and_is_its_own_gradient() {
    for (lens, d) in [(vec![1], 1), (vec![3, 0, 7], 5), (vec![300, 41], 64), (vec![], 3)] {
        let seq = SeqLens::from_lens(lens.iter().copied());
        let (x, g) = (random(1, &[seq.total(), d]), random(2, &[seq.total(), d]));
        let columns: Vec<Vec<u32>> =
            (0..lens.len()).map(|i| (0..d as u32).filter(|c| (c + i as u32).is_multiple_of(3)).collect()).collect();
        let y = zero_columns(&x, &seq, &columns).unwrap();
        assert_eq!(to_f64(&y), reference::zero_columns(&to_f64(&x), &lens, &columns, d));
        // ⟨g, zero(x)⟩ = ⟨zero(g), x⟩
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        let dx = zero_columns(&g, &seq, &columns).unwrap();
        assert_eq!(dot(&to_f64(&g), &to_f64(&y)), dot(&to_f64(&dx), &to_f64(&x)));
        let narrow = zero_columns(&bf16(&x), &seq, &columns).unwrap();
        assert_eq!(to_f64(&narrow), reference::zero_columns(&to_f64(&bf16(&x)), &lens, &columns, d));
    }
}

#[test]
fn zero_columns_refuses_what_does_not_fit() {
    let (x, seq) = (random(1, &[4, 3]), SeqLens::from_lens([3, 1]));
    let refused = |seq: &SeqLens, columns: &[Vec<u32>]| zero_columns(&x, seq, columns).unwrap_err().to_string();
    assert!(refused(&seq, &[vec![0]]).contains("1 lists of columns"));
    assert!(refused(&SeqLens::from_lens([3]), &[vec![0]]).contains("of 3 rows"));
    assert!(refused(&seq, &[vec![0], vec![3]]).contains("column 3 to set to zero: there are 3 columns"));
}

/// A view of `[rows, d]` that begins `skip` numbers into its storage.
#[cfg(feature = "emulate")]
fn view(seed: u64, rows: usize, d: usize, skip: usize, narrow: bool) -> candle_core::Tensor {
    let all = random(seed, &[rows * d + skip]);
    let all = if narrow { bf16(&all) } else { all };
    all.narrow(0, skip, rows * d).unwrap().reshape((rows, d)).unwrap()
}

#[cfg(feature = "emulate")]
#[test]
fn kernels_gather_and_scatter_rows_of_any_width() {
    echat_kernels::cuda::emulated(|| {
        // Row 0 of source 0 is taken 200 times: more than a block adds up.
        for (count, d, skip, narrow) in
            [(600, 40, 0, false), (600, 40, 3, true), (30, 2100, 0, true), (21, 67, 0, true)]
        {
            let rows = [1, 40, 7];
            let sources = [0, 1, 2].map(|i| view(i, rows[i as usize], d, skip, narrow));
            let (index, grad) = (index(count), view(9, count, d, skip, narrow));
            let y = gather(&sources.iter().collect::<Vec<_>>(), &index).unwrap();
            let values: Vec<Vec<f64>> = sources.iter().map(to_f64).collect();
            let values: Vec<&[f64]> = values.iter().map(Vec::as_slice).collect();
            assert_eq!(to_f64(&y), reference::gather(&values, &index, d));
            for (source, rows) in rows.into_iter().enumerate() {
                // The last two rows and, of source 0, those after the first are no targets.
                let got = scatter(&grad, &index, source, rows + 2).unwrap();
                let want = reference::scatter(&to_f64(&grad), &index, source, rows + 2, d);
                assert_close(&got, &want, if narrow { 3e-3 } else { 2e-6 }, "scatter");
            }
        }
        assert_eq!(scatter(&random(1, &[0, 5]), &[], 0, 3).unwrap().dims(), [3, 5]);
        assert_eq!(to_f64(&scatter(&random(1, &[1, 2]), &[(1, 0)], 0, 2).unwrap()), [0.0; 4]);
    });
}

#[cfg(feature = "emulate")]
#[test]
fn kernels_overwrite_rows_and_columns_of_any_width() {
    echat_kernels::cuda::emulated(|| {
        for (t, d, skip, narrow) in [(75, 40, 0, false), (75, 40, 1, true), (33, 2100, 0, true), (64, 67, 0, true)] {
            let (x, rows) = (view(1, t, d, skip, narrow), (0..t as u32).filter(|i| i % 5 < 2).collect::<Vec<_>>());
            let with = view(2, 1, d, skip, narrow).reshape(d).unwrap();
            let y = replace(&x, &rows, &with).unwrap();
            assert_eq!(to_f64(&y), reference::replace(&to_f64(&x), &rows, &to_f64(&with)));
            let (dx, dwith) = replace_backward(&x, &rows).unwrap();
            let (want_dx, want_dwith) = reference::replace_backward(&to_f64(&x), &rows, d);
            assert_eq!(to_f64(&dx), want_dx);
            assert_close(&dwith, &want_dwith, 2e-6, "dwith");
            let lens = [0, t - 3, 0, 3];
            let columns = [vec![0], (0..d as u32).step_by(3).collect(), vec![], vec![d as u32 - 1, 1, 1]];
            let y = zero_columns(&x, &SeqLens::from_lens(lens), &columns).unwrap();
            assert_eq!(to_f64(&y), reference::zero_columns(&to_f64(&x), &lens, &columns, d));
        }
    });
}

#[cfg(feature = "emulate")]
emulated!(
    gather_and_scatter_match_the_reference,
    replace_matches_the_reference,
    stores_bf16,
    wrong_shapes_and_indices_are_errors,
    zero_columns_matches_the_reference_and_is_its_own_gradient,
    zero_columns_refuses_what_does_not_fit
);
