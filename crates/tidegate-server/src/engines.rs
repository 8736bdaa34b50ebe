//! Makes the engine that the configuration names, with its settings.

use std::{sync::Arc, time::Duration};

use tidegate_engine::{
    DiskOptions, Engine, Hooks, LocalEngine, LocalOptions, MemoryOptions, store::Recovery,
};

use crate::config::{Config, LogEngine, LogSync};

/// How long the disk engine remembers an org that holds no events: a client that comes back within a week
/// goes on in the epoch that it knows.
const FORGET_AFTER: Duration = Duration::from_secs(7 * 24 * 3600);

/// Opens the engine that `log.engine` names.
pub fn open(config: &Config, hooks: Hooks) -> anyhow::Result<(Arc<dyn Engine>, Recovery)> {
    Ok(match config.log.engine {
        LogEngine::Memory => {
            let engine = LocalEngine::memory(memory_options(config), hooks)?;
            let recovery = engine.recovery();
            (Arc::new(engine), recovery)
        }
        LogEngine::Disk => {
            let options = DiskOptions {
                local: local_options(config),
                dir: config.log.dir.clone(),
                sync_always: config.log.sync == LogSync::Always,
                retention: config.log.retention,
                max_bytes: config.log.max_bytes.bytes() as u64,
                min_free: config.log.min_free.bytes() as u64,
                bucket: None,
                erase_within: config.log.erase_within,
                forget_after: FORGET_AFTER,
            };
            let engine = LocalEngine::disk(options, hooks)?;
            let recovery = engine.recovery();
            (Arc::new(engine), recovery)
        }
    })
}

/// The settings of the memory engine.
pub fn memory_options(config: &Config) -> MemoryOptions {
    MemoryOptions {
        local: local_options(config),
        window: config.tail.window,
        // Tails hold the same events: one budget for both.
        max_bytes: config.log.max_bytes.bytes().min(config.tail.max_bytes.bytes()) as u64,
    }
}

fn local_options(config: &Config) -> LocalOptions {
    LocalOptions {
        dedup_window: config.dedup.window,
        dedup_max_entries: config.dedup.max_entries,
        dedup_max_entries_per_org: config.dedup.max_entries_per_org,
        orgs_max: config.limits.orgs,
        queue_requests_max: config.limits.publishes_in_flight,
        // What each event holds beside its bytes comes on top, so that one request always fits.
        queue_bytes_max: config.limits.publish_queue_bytes.bytes() + config.limits.events_per_batch * 512,
    }
}
