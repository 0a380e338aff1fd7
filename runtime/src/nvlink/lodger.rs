//! What ranks have together that are threads of this process and share a GPU.
//!
//! They use the GPU by one context, and what waits for all work of the context waits for their kernels, of which one may
//! wait for the very rank that waits: loading a kernel does so, and freeing memory. So kernels are loaded once for all of
//! them, before any of them runs, and what a rank would free is kept until the last of them is gone.

use std::any::Any;
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::call::DeviceElement;
use super::code::code;
use crate::cuda::{CudaError, Device, Module};

/// One such rank.
#[derive(Debug)]
pub(crate) struct Lodger(());

#[derive(Default)]
struct Lodging {
    lodgers: usize,
    /// By the device's number, and for which elements.
    modules: HashMap<(u32, Option<DeviceElement>), Module>,
    retired: Vec<Box<dyn Any + Send>>,
}

static LODGING: Mutex<Option<Lodging>> = Mutex::new(None);

impl Lodger {
    pub(crate) fn new() -> Lodger {
        lock().get_or_insert_default().lodgers += 1;
        Lodger(())
    }

    /// The kernels for a type, or for bytes, on this device.
    pub(crate) fn module(
        &self,
        device: &Device,
        element: Option<DeviceElement>,
    ) -> Result<Module, CudaError> {
        let mut lodging = lock();
        let modules = &mut lodging.get_or_insert_default().modules;
        let key = (device.ordinal(), element);
        if let Some(module) = modules.get(&key) {
            return Ok(module.clone());
        }
        let module = Module::of(device, code(element))?;
        modules.insert(key, module.clone());
        Ok(module)
    }

    /// Keeps something that cannot be dropped without waiting.
    pub(crate) fn retire(&self, what: impl Any + Send) {
        lock().get_or_insert_default().retired.push(Box::new(what));
    }
}

impl Drop for Lodger {
    fn drop(&mut self) {
        let mut lodging = lock();
        let left = lodging.as_mut().map_or(0, |lodging| {
            lodging.lodgers -= 1;
            lodging.lodgers
        });
        let over = if left == 0 { lodging.take() } else { None };
        // Freeing takes its time, and others may move in meanwhile.
        drop(lodging);
        drop(over);
    }
}

fn lock() -> MutexGuard<'static, Option<Lodging>> {
    LODGING.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn what_a_rank_leaves_behind_stays_until_the_last_one_is_gone() {
        let left_behind = Arc::new(());
        let (first, second) = (Lodger::new(), Lodger::new());
        first.retire(Arc::clone(&left_behind));
        drop(first);
        assert_eq!(Arc::strong_count(&left_behind), 2, "the other rank is still there");
        let third = Lodger::new();
        drop(second);
        assert_eq!(Arc::strong_count(&left_behind), 2, "another one came meanwhile");
        drop(third);
        assert_eq!(Arc::strong_count(&left_behind), 1);
        let later = Lodger::new();
        later.retire(Arc::clone(&left_behind));
        drop(later);
        assert_eq!(Arc::strong_count(&left_behind), 1);
    }
}
