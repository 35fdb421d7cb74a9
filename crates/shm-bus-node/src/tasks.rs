//! What has to wait for the master runs on libuv's pool and settles a promise.

use std::sync::Arc;
use std::time::Duration;

use napi::{Env, Result, Task};
use shm_bus::{AttachOptions, Bus, SubscribeOptions, Subscription};

use crate::bus::NativeBus;
use crate::error::to_js;
use crate::subscription::NativeSubscription;
use crate::views::ViewTable;

pub struct AttachTask {
    pub name: String,
    pub options: AttachOptions,
}

impl Task for AttachTask {
    type Output = Bus;
    type JsValue = NativeBus;

    fn compute(&mut self) -> Result<Bus> {
        Bus::attach(&self.name, &self.options).map_err(|e| to_js(&e))
    }

    fn resolve(&mut self, _env: Env, bus: Bus) -> Result<NativeBus> {
        NativeBus::new(bus)
    }
}

pub struct CloseTask {
    pub bus: Option<Arc<Bus>>,
}

impl Task for CloseTask {
    type Output = ();
    type JsValue = ();

    fn compute(&mut self) -> Result<()> {
        if let Some(bus) = self.bus.take() {
            bus.close();
        }
        Ok(())
    }

    fn resolve(&mut self, _env: Env, (): ()) -> Result<()> {
        Ok(())
    }
}

pub struct GroupTask {
    pub bus: Arc<Bus>,
    pub name: String,
    pub timeout: Duration,
}

impl Task for GroupTask {
    type Output = String;
    type JsValue = String;

    fn compute(&mut self) -> Result<String> {
        let address = self.bus.create_group(&self.name, self.timeout).map_err(|e| to_js(&e))?;
        Ok(address.to_string())
    }

    fn resolve(&mut self, _env: Env, address: String) -> Result<String> {
        Ok(address)
    }
}

pub struct SubscribeTask {
    pub bus: Arc<Bus>,
    pub views: Arc<ViewTable>,
    pub groups: Vec<String>,
    pub own_address: bool,
    pub options: SubscribeOptions,
}

impl Task for SubscribeTask {
    type Output = Subscription;
    type JsValue = NativeSubscription;

    fn compute(&mut self) -> Result<Subscription> {
        self.bus.subscribe(&self.groups, self.own_address, self.options).map_err(|e| to_js(&e))
    }

    fn resolve(&mut self, _env: Env, subscription: Subscription) -> Result<NativeSubscription> {
        Ok(NativeSubscription::new(subscription, self.views.clone(), self.options.records))
    }
}

pub struct LeaveTask {
    pub subscription: Option<Subscription>,
    pub timeout: Duration,
}

impl Task for LeaveTask {
    type Output = ();
    type JsValue = ();

    fn compute(&mut self) -> Result<()> {
        match self.subscription.take() {
            Some(mut subscription) => subscription.close(self.timeout).map_err(|e| to_js(&e)),
            None => Ok(()),
        }
    }

    fn resolve(&mut self, _env: Env, (): ()) -> Result<()> {
        Ok(())
    }
}
