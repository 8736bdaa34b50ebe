//! A value that is made from the configuration, once for each configuration.

use std::sync::{Arc, Mutex, PoisonError};

use super::Config;

/// The value for the configuration that was asked for last.
#[derive(Debug)]
pub struct PerConfig<T>(Mutex<Option<(Arc<Config>, T)>>);

impl<T> Default for PerConfig<T> {
    fn default() -> Self {
        Self(Mutex::new(None))
    }
}

impl<T: Clone> PerConfig<T> {
    /// The value for `config`; `make` is called if the last one was made for another configuration.
    pub fn get(&self, config: &Arc<Config>, make: impl FnOnce(&Config) -> T) -> T {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &*kept {
            Some((made_for, value)) if Arc::ptr_eq(made_for, config) => value.clone(),
            _ => {
                let value = make(config);
                *kept = Some((config.clone(), value.clone()));
                value
            }
        }
    }
}
