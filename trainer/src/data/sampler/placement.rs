//! Which node has which shard.

/// Assigns shards to nodes so that these hold nearly equally much: shard `i`, of size `sizes[i]`, goes to one of the nodes
/// `holders[i]`. Shards that only one node can hold go first, then the others, largest first, each to the node with least; ties
/// go to the lower number. So whoever splits a corpus over nodes calls it with all nodes for every shard, and who finds shards on
/// several nodes with those.
///
/// Returns the node of every shard; the first shard that nobody holds is the error.
pub fn place(sizes: &[u64], holders: &[Vec<u32>]) -> Result<Vec<u32>, usize> {
    if let Some(missing) = holders.iter().position(Vec::is_empty) {
        return Err(missing);
    }
    let count = holders.iter().flatten().max().map_or(0, |&node| node as usize + 1);
    let (mut loads, mut nodes) = (vec![0u64; count], vec![0; sizes.len()]);
    let mut order: Vec<usize> = (0..sizes.len()).collect();
    order.sort_by_key(|&i| (holders[i].len() > 1, std::cmp::Reverse(sizes[i]), i));
    for i in order {
        let least = holders[i].iter().copied().min_by_key(|&node| (loads[node as usize], node));
        let Some(node) = least else { return Err(i) };
        loads[node as usize] += sizes[i];
        nodes[i] = node;
    }
    Ok(nodes)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn nodes_hold_nearly_equally_much() {
        let sizes: Vec<u64> = (0..1000).map(|i| 100 + i * 7919 % 900).collect();
        let nodes = place(&sizes, &vec![(0..7).collect(); 1000]).unwrap();
        let mut loads = [0; 7];
        nodes.iter().zip(&sizes).for_each(|(&node, size)| loads[node as usize] += size);
        let (least, most) = (loads.iter().min().unwrap(), loads.iter().max().unwrap());
        assert!(most - least <= 1000, "{loads:?}");
    }

    #[test]
    fn a_shard_on_several_nodes_is_read_where_there_is_least() {
        let holders = [vec![0], vec![0, 1], vec![1, 0], vec![1]];
        assert_eq!(place(&[10, 5, 6, 1], &holders), Ok(vec![0, 1, 1, 1]));
        assert_eq!(place(&[10, 5, 6, 1], &[vec![0, 1], vec![1, 0], vec![0], vec![0, 1]]), Ok(vec![1, 0, 0, 1]));
    }

    #[test]
    fn a_shard_nobody_has_is_named() {
        assert_eq!(place(&[1, 1, 1], &[vec![0], vec![], vec![0]]), Err(1));
        assert_eq!(place(&[], &[]), Ok(vec![]));
    }
}
