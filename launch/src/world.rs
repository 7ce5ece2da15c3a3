//! Rank and host facts.

use std::fs;
use std::thread::available_parallelism;

use crate::{LaunchError, env};

/// Which process of how many this is, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct World {
    /// This process among all, `0..size`.
    pub rank: usize,
    /// The number of processes.
    pub size: usize,
    /// This process among those on its host, `0..local_size`.
    pub local_rank: usize,
    /// The number of processes on this host.
    pub local_size: usize,
    /// The host's name.
    pub host: String,
    /// Whether the launcher restricted this process to processors of its own.
    pub bound: bool,
}

/// The variables one launcher sets. Later names are alternatives to earlier ones.
struct Launcher {
    rank: &'static str,
    size: &'static str,
    local_rank: &'static [&'static str],
    local_size: &'static [&'static str],
}

/// Most specific first: an `mpirun` inside a Slurm allocation starts its daemons with `srun`, so Slurm's variables come last.
const LAUNCHERS: [Launcher; 4] = [
    Launcher {
        rank: "OMPI_COMM_WORLD_RANK",
        size: "OMPI_COMM_WORLD_SIZE",
        local_rank: &["OMPI_COMM_WORLD_LOCAL_RANK"],
        local_size: &["OMPI_COMM_WORLD_LOCAL_SIZE"],
    },
    Launcher {
        rank: "MV2_COMM_WORLD_RANK",
        size: "MV2_COMM_WORLD_SIZE",
        local_rank: &["MV2_COMM_WORLD_LOCAL_RANK"],
        local_size: &["MV2_COMM_WORLD_LOCAL_SIZE"],
    },
    Launcher {
        rank: "PMI_RANK",
        size: "PMI_SIZE",
        local_rank: &["MPI_LOCALRANKID", "PMI_LOCAL_RANK", "PALS_LOCAL_RANKID", "SLURM_LOCALID"],
        local_size: &["MPI_LOCALNRANKS", "PMI_LOCAL_SIZE", "PALS_LOCAL_SIZE"],
    },
    // `SLURM_STEP_NUM_TASKS` and not `SLURM_NTASKS`: the latter is also there in a batch script, which is one process.
    Launcher { rank: "SLURM_PROCID", size: "SLURM_STEP_NUM_TASKS", local_rank: &["SLURM_LOCALID"], local_size: &[] },
];

type Vars<'a> = &'a dyn Fn(&str) -> Option<String>;

impl World {
    /// One process, no peers.
    pub fn single(host: impl Into<String>) -> Self {
        Self { rank: 0, size: 1, local_rank: 0, local_size: 1, host: host.into(), bound: false }
    }

    /// What the launcher said; a single process if there was none. Where it does not say how ranks fall on hosts, all
    /// are taken to share one until the collective that connects them knows better.
    pub fn from_env() -> Result<Self, LaunchError> {
        Self::from_vars(&env::read, host_name())
    }

    /// The same from the given variables: a pure function.
    pub fn from_vars(vars: Vars<'_>, host: String) -> Result<Self, LaunchError> {
        for launcher in &LAUNCHERS {
            // A batch script has SLURM_PROCID=0 without a step: one process. Other launchers set both or neither.
            let in_slurm = launcher.rank == "SLURM_PROCID";
            match (number(vars, launcher.rank)?, number(vars, launcher.size)?) {
                (Some(rank), Some(size)) => return launcher.world(vars, rank, size, host),
                (Some(_), None) if !in_slurm => {
                    return Err(LaunchError::Missing { found: launcher.rank, missing: launcher.size });
                }
                _ => {}
            }
        }
        if vars("PMIX_RANK").is_some() {
            return Err(LaunchError::Missing { found: "PMIX_RANK", missing: "OMPI_COMM_WORLD_SIZE" });
        }
        Ok(Self::single(host))
    }

    /// A fair number of compute threads for this rank: all processors it may use, shared with the other ranks of its
    /// host unless the launcher already gave each its own.
    pub fn default_threads(&self) -> usize {
        let allowed = available_parallelism().map_or(1, usize::from);
        if self.bound { allowed } else { (allowed / self.local_size.max(1)).max(1) }
    }
}

impl Launcher {
    fn world(&self, vars: Vars<'_>, rank: usize, size: usize, host: String) -> Result<World, LaunchError> {
        if rank >= size {
            return Err(LaunchError::Rank { rank_name: self.rank, rank, size_name: self.size, size });
        }
        let local_size = match first(vars, self.local_size)? {
            Some(n) => n,
            None => slurm_local_size(vars)?.unwrap_or(size),
        };
        let local_rank = first(vars, self.local_rank)?.unwrap_or(rank);
        if local_rank >= local_size {
            let name = self.local_rank.first().copied().unwrap_or(self.rank);
            let value = local_rank.to_string();
            return Err(LaunchError::Malformed {
                name,
                value,
                expected: "a rank below the number of ranks on this host",
            });
        }
        let bound = vars("OMPI_MCA_orte_bound_at_launch").is_some();
        Ok(World { rank, size, local_rank, local_size, host, bound })
    }
}

fn number(vars: Vars<'_>, name: &'static str) -> Result<Option<usize>, LaunchError> {
    let Some(value) = vars(name) else { return Ok(None) };
    match value.trim().parse() {
        Ok(n) => Ok(Some(n)),
        Err(_) => Err(LaunchError::Malformed { name, value, expected: "a number, as launchers set it" }),
    }
}

fn first(vars: Vars<'_>, names: &[&'static str]) -> Result<Option<usize>, LaunchError> {
    for name in names {
        if let Some(n) = number(vars, name)? {
            return Ok(Some(n));
        }
    }
    Ok(None)
}

/// This node's entry of `SLURM_STEP_TASKS_PER_NODE`, such as `2(x3),1`: three nodes of two tasks and one of one.
fn slurm_local_size(vars: Vars<'_>) -> Result<Option<usize>, LaunchError> {
    const NAME: &str = "SLURM_STEP_TASKS_PER_NODE";
    let (Some(node), Some(value)) = (number(vars, "SLURM_NODEID")?, vars(NAME)) else { return Ok(None) };
    let mut nodes = 0;
    for part in value.split(',') {
        let (tasks, repeat) = match part.trim().strip_suffix(')').and_then(|p| p.split_once("(x")) {
            Some((tasks, repeat)) => (tasks.parse::<usize>(), repeat.parse::<usize>()),
            None => (part.trim().parse(), Ok(1)),
        };
        let (Ok(tasks), Ok(repeat)) = (tasks, repeat) else {
            return Err(LaunchError::Malformed { name: NAME, value, expected: "counts such as 2(x3),1" });
        };
        nodes += repeat;
        if node < nodes {
            return Ok(Some(tasks));
        }
    }
    Ok(None)
}

fn host_name() -> String {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").map(|s| s.trim().to_owned()).unwrap_or_default();
    if name.is_empty() { env::read("HOSTNAME").unwrap_or_else(|| "localhost".into()) } else { name }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn world(vars: &[(&str, &str)]) -> Result<World, LaunchError> {
        World::from_vars(
            &|name| vars.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned()),
            "node7".to_owned(),
        )
    }

    fn ranks(rank: usize, size: usize, local_rank: usize, local_size: usize) -> World {
        World { rank, size, local_rank, local_size, host: "node7".into(), bound: false }
    }

    #[test]
    fn no_variables_is_one_process() {
        assert_eq!(world(&[]), Ok(World::single("node7")));
    }

    #[test]
    fn open_mpi() {
        let vars = [
            ("OMPI_COMM_WORLD_RANK", "5"),
            ("OMPI_COMM_WORLD_SIZE", "8"),
            ("OMPI_COMM_WORLD_LOCAL_RANK", "1"),
            ("OMPI_COMM_WORLD_LOCAL_SIZE", "4"),
            ("PMIX_RANK", "5"),
        ];
        assert_eq!(world(&vars), Ok(ranks(5, 8, 1, 4)));
    }

    #[test]
    fn open_mpi_wins_over_the_slurm_step_that_started_its_daemon() {
        let vars = [
            ("OMPI_COMM_WORLD_RANK", "5"),
            ("OMPI_COMM_WORLD_SIZE", "8"),
            ("OMPI_COMM_WORLD_LOCAL_RANK", "1"),
            ("OMPI_COMM_WORLD_LOCAL_SIZE", "4"),
            ("SLURM_PROCID", "1"),
            ("SLURM_STEP_NUM_TASKS", "2"),
        ];
        assert_eq!(world(&vars), Ok(ranks(5, 8, 1, 4)));
    }

    #[test]
    fn binding_by_the_launcher_is_seen() {
        let vars =
            [("OMPI_COMM_WORLD_RANK", "0"), ("OMPI_COMM_WORLD_SIZE", "2"), ("OMPI_MCA_orte_bound_at_launch", "1")];
        let world = world(&vars).unwrap();
        assert!(world.bound);
        assert_eq!(world.default_threads(), available_parallelism().unwrap().get());
    }

    #[test]
    fn mpich_and_intel() {
        let vars = [("PMI_RANK", "2"), ("PMI_SIZE", "4"), ("MPI_LOCALRANKID", "0"), ("MPI_LOCALNRANKS", "2")];
        assert_eq!(world(&vars), Ok(ranks(2, 4, 0, 2)));
    }

    #[test]
    fn mvapich() {
        let vars = [("MV2_COMM_WORLD_RANK", "1"), ("MV2_COMM_WORLD_SIZE", "2")];
        assert_eq!(world(&vars), Ok(ranks(1, 2, 1, 2)));
    }

    #[test]
    fn srun() {
        let vars = [
            ("SLURM_PROCID", "6"),
            ("SLURM_STEP_NUM_TASKS", "7"),
            ("SLURM_LOCALID", "0"),
            ("SLURM_NODEID", "3"),
            ("SLURM_STEP_TASKS_PER_NODE", "2(x3),1"),
        ];
        assert_eq!(world(&vars), Ok(ranks(6, 7, 0, 1)));
    }

    #[test]
    fn a_slurm_batch_script_is_one_process() {
        assert_eq!(world(&[("SLURM_PROCID", "0"), ("SLURM_NTASKS", "16")]), Ok(World::single("node7")));
    }

    #[test]
    fn a_rank_without_a_size_is_an_error() {
        let error = world(&[("PMI_RANK", "1")]).unwrap_err();
        assert_eq!(error, LaunchError::Missing { found: "PMI_RANK", missing: "PMI_SIZE" });
        assert!(world(&[("PMIX_RANK", "1")]).is_err());
    }

    #[test]
    fn a_malformed_number_is_an_error_naming_the_variable() {
        let error = world(&[("PMI_RANK", "one"), ("PMI_SIZE", "2")]).unwrap_err().to_string();
        assert!(error.contains("PMI_RANK=\"one\""), "{error}");
        let slurm = [
            ("SLURM_PROCID", "0"),
            ("SLURM_STEP_NUM_TASKS", "2"),
            ("SLURM_NODEID", "0"),
            ("SLURM_STEP_TASKS_PER_NODE", "2(y3)"),
        ];
        assert!(world(&slurm).unwrap_err().to_string().contains("SLURM_STEP_TASKS_PER_NODE"));
    }

    #[test]
    fn a_rank_beyond_the_size_is_an_error() {
        assert!(matches!(
            world(&[("PMI_RANK", "2"), ("PMI_SIZE", "2")]),
            Err(LaunchError::Rank { rank: 2, size: 2, .. })
        ));
        assert!(world(&[("PMI_RANK", "0"), ("PMI_SIZE", "0")]).is_err());
    }

    #[test]
    fn ranks_of_one_host_share_its_processors() {
        let all = available_parallelism().unwrap().get();
        assert_eq!(World::single("a").default_threads(), all);
        assert_eq!(ranks(0, 1000, 0, 1000).default_threads(), (all / 1000).max(1));
    }
}
