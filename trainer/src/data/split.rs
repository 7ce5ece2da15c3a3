//! Dividing a corpus into parts, each with the same share of every label: a pure function of labels, sizes and seed.

use super::draw::Draws;

/// Sizes that do not fit the items.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum SplitError {
    /// The sizes' sum is not the number of items.
    #[error("the parts have {parts} items together, but there are {items}")]
    Sum {
        /// Of the parts.
        parts: usize,
        /// What is to be divided.
        items: usize,
    },
    /// A share below 0, above 1 or NaN, or shares that sum to more than 1.
    #[error("shares must lie between 0 and 1 and sum to at most 1, but they are {0:?}")]
    Shares(Vec<f64>),
}

/// Divides `labels.len()` items into `sizes.len()` parts of exactly `sizes` items: each part's indices, ascending. Of the `n` items with
/// one label a part of size `s` gets `n * s / labels.len()`, rounded up or down; which ones is drawn by `seed`.
///
/// # Errors
/// [`SplitError::Sum`] if the sizes do not sum to `labels.len()`.
pub fn stratified<L: Ord>(labels: &[L], sizes: &[usize], seed: u64) -> Result<Vec<Vec<usize>>, SplitError> {
    let (parts, items) = (sizes.iter().sum(), labels.len());
    if parts != items {
        return Err(SplitError::Sum { parts, items });
    }
    let mut order: Vec<usize> = (0..items).collect();
    order.sort_by(|&a, &b| labels[a].cmp(&labels[b]).then(a.cmp(&b)));
    let mut strata: Vec<Vec<usize>> = order.chunk_by(|&a, &b| labels[a] == labels[b]).map(<[usize]>::to_vec).collect();
    let counts = allot(&strata.iter().map(Vec::len).collect::<Vec<_>>(), sizes, items);
    let draws = Draws::new(seed, "data.split");
    let mut split = vec![Vec::new(); sizes.len()];
    for (index, (stratum, counts)) in strata.iter_mut().zip(counts).enumerate() {
        draws.item(index).shuffle(stratum);
        let mut left = stratum.as_slice();
        for (part, count) in split.iter_mut().zip(counts) {
            let (taken, rest) = left.split_at(count.min(left.len()));
            part.extend_from_slice(taken);
            left = rest;
        }
    }
    split.iter_mut().for_each(|part| part.sort_unstable());
    Ok(split)
}

/// `shares` of `items` as whole numbers, each rounded up or down: largest remainders first, as many as their sum asks for.
///
/// # Errors
/// [`SplitError::Shares`] if they are no shares.
pub fn sizes_of(shares: &[f64], items: usize) -> Result<Vec<usize>, SplitError> {
    let sum: f64 = shares.iter().sum();
    if !(shares.iter().all(|share| (0.0..=1.0).contains(share)) && sum <= 1.0 + 1e-9) {
        return Err(SplitError::Shares(shares.to_vec()));
    }
    let exact: Vec<f64> = shares.iter().map(|share| share * items as f64).collect();
    let mut sizes: Vec<usize> = exact.iter().map(|x| (x + 1e-9).floor() as usize).collect();
    let total = ((sum * items as f64).round() as usize).min(items);
    let mut order: Vec<usize> = (0..shares.len()).collect();
    let remainder = |i: usize| exact[i] - (exact[i] + 1e-9).floor();
    order.sort_by(|&a, &b| remainder(b).total_cmp(&remainder(a)).then(a.cmp(&b)));
    let missing = total.saturating_sub(sizes.iter().sum());
    order.into_iter().take(missing).for_each(|i| sizes[i] += 1);
    Ok(sizes)
}

/// How many of each stratum go to each part: `rows[r] * columns[c] / items` rounded up or down so that rows and columns sum exactly.
/// The fractions themselves are such an assignment in parts of an item, so one in whole items exists (flows are integral);
/// augmenting paths find it.
fn allot(rows: &[usize], columns: &[usize], items: usize) -> Vec<Vec<usize>> {
    let product = |r: usize, c: usize| rows[r] as u128 * columns[c] as u128;
    let whole = |r, c| (product(r, c) / items.max(1) as u128) as usize;
    let mut table: Vec<Vec<usize>> =
        (0..rows.len()).map(|r| (0..columns.len()).map(|c| whole(r, c)).collect()).collect();
    let mut rounding = Rounding {
        up: vec![vec![false; columns.len()]; rows.len()],
        may: (0..rows.len())
            .map(|r| (0..columns.len()).map(|c| !product(r, c).is_multiple_of(items.max(1) as u128)).collect())
            .collect(),
        room: (0..columns.len()).map(|c| columns[c] - table.iter().map(|row| row[c]).sum::<usize>()).collect(),
    };
    for (r, row) in table.iter().enumerate() {
        for _ in row.iter().sum::<usize>()..rows[r] {
            rounding.place(r, &mut vec![false; columns.len()]);
        }
    }
    for (row, up) in table.iter_mut().zip(&rounding.up) {
        row.iter_mut().zip(up).for_each(|(count, &up)| *count += usize::from(up));
    }
    table
}

/// Which cells of the table are rounded up.
struct Rounding {
    up: Vec<Vec<bool>>,
    /// Whole numbers are not rounded.
    may: Vec<Vec<bool>>,
    /// What each column still lacks.
    room: Vec<usize>,
}

impl Rounding {
    /// Rounds one more cell of row `r` up; if its columns are full, another row gives one of its cells up for a free column.
    fn place(&mut self, r: usize, tried: &mut [bool]) -> bool {
        for c in 0..self.room.len() {
            if tried[c] || self.up[r][c] || !self.may[r][c] {
                continue;
            }
            tried[c] = true;
            if self.room[c] > 0 {
                self.room[c] -= 1;
                self.up[r][c] = true;
                return true;
            }
            for other in 0..self.up.len() {
                if self.up[other][c] && self.place(other, tried) {
                    self.up[other][c] = false;
                    self.up[r][c] = true;
                    return true;
                }
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// All ways to write `total` as `parts` numbers.
    fn compositions(total: usize, parts: usize) -> Vec<Vec<usize>> {
        if parts == 1 {
            return vec![vec![total]];
        }
        let with = |first: usize| {
            compositions(total - first, parts - 1).into_iter().map(move |rest| [vec![first], rest].concat())
        };
        (0..=total).flat_map(with).collect()
    }

    #[test]
    fn every_small_table_has_exact_sums_and_shares_within_one() {
        let mut tables = 0;
        for items in 0..=9 {
            for rows in compositions(items, 3) {
                for columns in compositions(items, 3) {
                    let table = allot(&rows, &columns, items);
                    for (r, row) in table.iter().enumerate() {
                        assert_eq!(row.iter().sum::<usize>(), rows[r], "{rows:?} {columns:?}");
                        for (c, &count) in row.iter().enumerate() {
                            assert_eq!(
                                table.iter().map(|row| row[c]).sum::<usize>(),
                                columns[c],
                                "{rows:?} {columns:?}"
                            );
                            let exact = (rows[r] * columns[c]) as f64 / items.max(1) as f64;
                            assert!((count as f64 - exact).abs() < 1.0, "{rows:?} {columns:?}: {table:?}");
                        }
                    }
                    tables += 1;
                }
            }
        }
        assert_eq!(tables, (0..=9).map(|n| ((n + 1) * (n + 2) / 2_usize).pow(2)).sum::<usize>());
    }

    #[test]
    fn the_paper_s_split_is_exact_and_keeps_every_emotion_s_share() {
        let entries = [62_000, 25_000, 30_000, 33_000, 28_000];
        let labels: Vec<usize> = (0..5).flat_map(|label| std::iter::repeat_n(label, entries[label])).collect();
        let sizes = [143_000, 12_000, 23_000];
        let split = stratified(&labels, &sizes, 1).unwrap();
        assert_eq!(split.iter().map(Vec::len).collect::<Vec<_>>(), sizes);
        for (part, size) in split.iter().zip(sizes) {
            for (label, entries) in entries.into_iter().enumerate() {
                let count = part.iter().filter(|&&i| labels[i] == label).count() as f64;
                assert!((count - (entries * size) as f64 / 178_000.0).abs() < 1.0, "{label}: {count}");
            }
        }
    }

    #[test]
    fn every_item_is_in_one_part_and_the_seed_says_which() {
        let labels: Vec<Option<u8>> = (0..50).map(|i| (i % 7 > 0).then_some(i % 4)).collect();
        let split = |seed| stratified(&labels, &[30, 0, 15, 5], seed).unwrap();
        let mut all = split(3).concat();
        all.sort_unstable();
        assert_eq!(all, (0..50).collect::<Vec<_>>());
        assert!(split(3).iter().all(|part| part.is_sorted()));
        assert_eq!(split(3), split(3));
        assert_ne!(split(3), split(4));
    }

    #[test]
    fn sizes_that_do_not_sum_to_the_items_are_an_error() {
        assert_eq!(stratified(&[0; 3], &[1, 1], 0), Err(SplitError::Sum { parts: 2, items: 3 }));
    }

    #[test]
    fn shares_become_sizes_by_largest_remainder() {
        assert_eq!(sizes_of(&[0.8, 0.1, 0.1], 10), Ok(vec![8, 1, 1]));
        assert_eq!(sizes_of(&[0.5, 0.25, 0.25], 3), Ok(vec![1, 1, 1]));
        assert_eq!(sizes_of(&[0.07, 0.13], 100), Ok(vec![7, 13]));
        assert_eq!(sizes_of(&[], 5), Ok(vec![]));
        for shares in [vec![-0.1], vec![1.1], vec![f64::NAN], vec![0.6, 0.6]] {
            assert!(matches!(sizes_of(&shares, 5), Err(SplitError::Shares(_))), "{shares:?}");
        }
    }
}
