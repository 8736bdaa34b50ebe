//! What a start would refuse beyond the configuration itself: the log directory, the file of API keys, the
//! addresses. It changes nothing, and a node may run meanwhile.
//!
//! Called by `tidegate config check`; `serve` finds the same as it opens these things.

use std::{io::ErrorKind, net::SocketAddr};

use tidegate_engine::DiskStore;
use tidegate_protocol::UnixMillis;

use crate::{
    app,
    auth::{KeysFile, Publishers},
    config::{ConfigError, ConfigKey, Examined, Loaded, LogEngine, config_key},
};

/// Every fault, with the key to change. Nothing is said of keys whose values are not known.
pub fn faults(examined: &Examined, now: UnixMillis) -> Vec<ConfigError> {
    let mut faults = Vec::new();
    let mut fault = |loaded: &Loaded, key: ConfigKey, reason: String| {
        let location = loaded.location(key.name()).clone();
        faults.push(ConfigError { location, key: Some(key.name()), reason });
    };
    // What the configuration's own check has refused is not refused twice.
    let is_refused = |key: ConfigKey| examined.unfit.iter().any(|unfit| unfit.key == Some(key.name()));
    let (dir, keys_file) = (config_key!(log.dir), config_key!(auth.keys_file));
    if let Some(loaded) = examined.known(&[dir, config_key!(log.engine)])
        && loaded.config.log.engine == LogEngine::Disk
        && !is_refused(dir)
        && let Err(error) = DiskStore::look(&loaded.config.log.dir)
    {
        fault(loaded, dir, error.to_string());
    }
    if let Some(loaded) = examined.known(&[dir, keys_file])
        && !is_refused(keys_file)
        && let Err(error) = Publishers::open(KeysFile::at(loaded.config.keys_file()), now)
    {
        fault(loaded, keys_file, error.to_string());
    }
    type AddressOf = fn(&Loaded) -> SocketAddr;
    let addresses: [(ConfigKey, AddressOf); 2] = [
        (config_key!(listen.public), |loaded| loaded.config.listen.public),
        (config_key!(listen.admin), |loaded| loaded.config.listen.admin),
    ];
    for (key, address) in addresses {
        let Some(loaded) = examined.known(&[key]) else { continue };
        let address = address(loaded);
        match app::socket_at(address) {
            Ok(_) => {}
            // By the node that this configuration is for, most likely.
            Err(error) if error.kind() == ErrorKind::AddrInUse => {}
            Err(error) => fault(loaded, key, format!("cannot listen on {address}: {error}")),
        }
    }
    faults
}
