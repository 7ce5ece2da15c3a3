//! Which node has which shard, as found when a job starts.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use super::CorpusError;
use crate::config::choice;
use crate::data::sampler::placement::place;
use crate::data::shard::{INDEX_FILE, Index, ShardError};
use crate::dist::Collective;

choice! {
    /// Where shards lie.
    pub enum PlacementKind {
        /// On a file system that all nodes see.
        Shared = "shared",
        /// On the nodes' own disks: each has some of the shards of every directory, and all of its index.json and lengths.safetensors.
        NodeLocal = "node_local",
    }
}

/// Which node reads what, and which rank runs where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// The node of each rank.
    pub ranks: Vec<u32>,
    /// This rank's node.
    pub here: usize,
    /// By entry of the corpus, the node of each shard; empty if all nodes see all.
    pub(super) shards: Vec<Vec<u32>>,
}

/// What a rank sees.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Sight {
    /// Its host.
    pub host: String,
    /// Of each directory, the checksum of its index.
    pub indexes: Vec<u32>,
    /// Of each directory, which of its shards are there.
    pub shards: Vec<Vec<bool>>,
}

impl Placement {
    /// `ranks` ranks that all see everything.
    pub fn shared(ranks: usize) -> Self {
        Self { ranks: vec![0; ranks], here: 0, shards: Vec::new() }
    }

    /// Of the directories `paths` over the hosts of `collective`, each rank of which calls it. What is on several nodes is read on
    /// the one with least to read.
    pub fn find(kind: PlacementKind, paths: &[PathBuf], collective: &mut dyn Collective) -> Result<Self, CorpusError> {
        let (rank, size, host) = (collective.world().rank, collective.world().size, collective.world().host.clone());
        if kind == PlacementKind::Shared {
            return Ok(Self::shared(size));
        }
        let (mine, indexes) = Sight::of(paths, host)?;
        let all = collective.all_gather_bytes(&serde_json::to_vec(&mine)?)?;
        let seen: Vec<Sight> = all.iter().map(|bytes| serde_json::from_slice(bytes)).collect::<Result<_, _>>()?;
        Self::of(paths, &indexes, &seen, rank)
    }

    /// From what each rank sees of the directories `paths`, whose indexes are `indexes`, for rank `rank`: a pure function. A node
    /// has what all of its ranks see.
    pub fn of(paths: &[PathBuf], indexes: &[Index], seen: &[Sight], rank: usize) -> Result<Self, CorpusError> {
        let mut hosts = BTreeMap::<&str, Sight>::new();
        for sight in seen {
            if let Some(at) = sight.indexes.iter().zip(&seen[0].indexes).position(|(one, other)| one != other) {
                let (path, one, other) = (paths[at].clone(), seen[0].host.clone(), sight.host.clone());
                return Err(CorpusError::OtherIndex { path, one, other });
            }
            let node = hosts.entry(&sight.host).or_insert_with(|| sight.clone());
            let both = node.shards.iter_mut().flatten().zip(sight.shards.iter().flatten());
            both.for_each(|(has, sees)| *has &= sees);
        }
        // By what they have, so that the same shards on hosts of other names are dealt alike.
        let mut nodes: Vec<&Sight> = hosts.values().collect();
        nodes.sort_by(|a, b| b.shards.cmp(&a.shards).then_with(|| a.host.cmp(&b.host)));
        let nodes = &nodes;
        let number = |host: &str| nodes.iter().position(|node| node.host == host).unwrap_or_default();
        let mut shards = Vec::with_capacity(paths.len());
        for (d, (path, index)) in paths.iter().zip(indexes).enumerate() {
            let sizes: Vec<u64> = index.shards.iter().map(|info| info.samples).collect();
            let has = |i: usize| (0..nodes.len() as u32).filter(move |&n| nodes[n as usize].shards[d][i]).collect();
            let nowhere = |i: usize| CorpusError::Nowhere {
                path: path.join(&index.shards[i].file),
                nodes: nodes.len(),
                hosts: nodes.iter().map(|node| node.host.as_str()).collect::<Vec<_>>().join(", "),
            };
            let holders: Vec<Vec<u32>> = (0..sizes.len()).map(has).collect();
            shards.push(place(&sizes, &holders).map_err(nowhere)?);
        }
        let ranks: Vec<u32> = seen.iter().map(|sight| number(&sight.host) as u32).collect();
        Ok(Self { here: ranks[rank] as usize, ranks, shards })
    }

    /// Whether nodes have parts.
    pub fn is_node_local(&self) -> bool {
        !self.shards.is_empty()
    }

    /// The node that reads shard `i` of entry `component` of the corpus.
    pub(super) fn node(&self, component: usize, i: usize) -> usize {
        self.shards.get(component).map_or(0, |nodes| nodes[i] as usize)
    }
}

impl Sight {
    /// What host `host`, this one, has of the directories `paths`; and their indexes.
    pub fn of(paths: &[PathBuf], host: String) -> Result<(Self, Vec<Index>), CorpusError> {
        let mut sight = Self { host, indexes: Vec::new(), shards: Vec::new() };
        let mut indexes = Vec::new();
        for path in paths {
            if !path.is_dir() && path.exists() {
                return Err(CorpusError::NotPlaceable { path: path.clone() });
            }
            let index = Index::read(path)?;
            let file = path.join(INDEX_FILE);
            let bytes = fs::read(&file).map_err(|source| ShardError::Unreadable { path: file, source })?;
            sight.indexes.push(crc32fast::hash(&bytes));
            sight.shards.push(index.shards.iter().map(|info| path.join(&info.file).is_file()).collect());
            indexes.push(index);
        }
        Ok((sight, indexes))
    }
}
