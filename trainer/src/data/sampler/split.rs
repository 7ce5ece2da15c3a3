//! A step's utterances over ranks, and a rank's over micro-batches.

/// Divides `utterances` over `world` ranks so that their costs are nearly equal: no two ranks differ by more than the dearest
/// utterance. Dearest first, each to the rank with least (Graham 1969); ties go to the lower number.
///
/// `costs` are those of the corpus: utterance `u` costs `costs[u]`.
pub fn assign(utterances: &[u32], costs: &[f32], world: usize) -> Vec<Vec<u32>> {
    let mut loads = vec![(0.0f64, Vec::new()); world.max(1)];
    for utterance in dearest_first(utterances, costs) {
        let mut least = 0;
        for rank in 1..loads.len() {
            if loads[rank].0 < loads[least].0 {
                least = rank;
            }
        }
        loads[least].0 += f64::from(costs[utterance as usize]);
        loads[least].1.push(utterance);
    }
    loads.into_iter().map(|(_, slice)| slice).collect()
}

/// Divides one rank's `utterances` into micro-batches of at most `cap_seconds`, an utterance dearer than that being one of its
/// own. Dearest first, each into the first that has room for it.
pub fn micro_batches(utterances: &[u32], costs: &[f32], cap_seconds: f64) -> Vec<Vec<u32>> {
    let mut batches: Vec<(f64, Vec<u32>)> = Vec::new();
    for utterance in dearest_first(utterances, costs) {
        let cost = f64::from(costs[utterance as usize]);
        match batches.iter_mut().find(|(sum, _)| *sum + cost <= cap_seconds) {
            Some((sum, batch)) => {
                *sum += cost;
                batch.push(utterance);
            }
            None => batches.push((cost, vec![utterance])),
        }
    }
    batches.into_iter().map(|(_, batch)| batch).collect()
}

fn dearest_first(utterances: &[u32], costs: &[f32]) -> Vec<u32> {
    let mut sorted = utterances.to_vec();
    sorted.sort_unstable_by(|&a, &b| costs[b as usize].total_cmp(&costs[a as usize]).then(a.cmp(&b)));
    sorted
}
