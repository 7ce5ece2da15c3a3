//! `echat cache`.

use clap::Args;
use echat_launch::World;

use super::{ConfigFile, print};
use crate::config::{RunConfig, load};
use crate::data::Corpus;
use crate::dist::{self, Collective};
use crate::train::{Model, open_cache, set_threads};

/// Computes once what a frozen encoder makes of data.train, into data.cache; under mpirun over all ranks. Interrupted and run again it does
/// what is missing; `echat train` does the same where the cache is not there yet
#[derive(Debug, Args)]
pub(crate) struct CacheArgs {
    #[command(flatten)]
    config: ConfigFile,
}

pub(crate) fn run(args: &CacheArgs) -> anyhow::Result<()> {
    let world = World::from_env()?;
    let config = load::<RunConfig>(&args.config.path, &args.config.overrides.sets)?.config;
    anyhow::ensure!(
        !config.data.cache.as_os_str().is_empty(),
        "data.cache is empty: it says where to put the features"
    );
    set_threads(config.output.threads, &world)?;
    let dist = config.dist.clone();
    dist::run(world, &dist, |collective| build(&config, collective))
}

fn build(config: &RunConfig, collective: &mut dyn Collective) -> anyhow::Result<()> {
    super::say_truncated_shards(collective.world())?;
    config.data.validate()?;
    let corpus = Corpus::open_for(&config.data.train, &config.data, collective)?;
    let model = Model::for_training(config, &dist::device(&config.dist, collective.world())?)?;
    let cache = open_cache(config, &model, &corpus, collective)?;
    let Some(cache) = cache.filter(|_| collective.world().rank == 0) else { return Ok(()) };
    let (count, bytes) = (cache.len(), cache.bytes() as f64 / 1e9);
    let left = corpus.len().saturating_sub(count);
    let more = if left > 0 { format!("; {left} not, as they have no readable recording here") } else { String::new() };
    print(&format!("{}: {count} utterances, {bytes:.2} GB{more}\n", config.data.cache.display()))?;
    Ok(())
}
