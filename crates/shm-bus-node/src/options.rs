//! Options as JavaScript gives them, checked.

use std::path::PathBuf;
use std::time::Duration;

use napi::Result;
use napi_derive::napi;
use shm_bus::{AttachOptions, BusError, MasterMode, Overload, SubscribeOptions};

use crate::error::to_js;

/// Options of `attach`; what is missing has its default.
#[napi(object)]
pub struct NativeAttachOptions {
    pub master: Option<String>,
    pub ring_bytes: Option<f64>,
    pub headers: Option<f64>,
    pub slots: Option<f64>,
    pub runtime_directory: Option<String>,
    pub timeout_ms: Option<f64>,
    pub protocol: Option<u32>,
}

/// Options of `subscribe`; what is missing has its default.
#[napi(object)]
pub struct NativeSubscribeOptions {
    pub overload: Option<String>,
    pub deadline_ms: Option<f64>,
    pub max_lag: Option<f64>,
    pub timeout_ms: f64,
    pub records: bool,
}

/// A whole number that JavaScript can represent.
pub fn whole(option: &'static str, value: f64) -> Result<u64> {
    if value.fract() == 0.0 && (0.0..=9_007_199_254_740_991.0).contains(&value) {
        Ok(value as u64)
    } else {
        Err(to_js(&BusError::InvalidOption { option, why: format!("must be a whole number, not {value}") }))
    }
}

/// A span of time.
pub fn milliseconds(option: &'static str, value: f64) -> Result<Duration> {
    if value.is_finite() && (0.0..=1e12).contains(&value) {
        Ok(Duration::from_secs_f64(value / 1000.0))
    } else {
        let why = format!("must be a number of milliseconds, not {value}");
        Err(to_js(&BusError::InvalidOption { option, why }))
    }
}

/// The options of an attach.
pub fn options_of(js: NativeAttachOptions) -> Result<AttachOptions> {
    let mut options = AttachOptions::default();
    if let Some(master) = js.master {
        options.master = match master.as_str() {
            "auto" => MasterMode::Auto,
            "never" => MasterMode::Never,
            "only" => MasterMode::Only,
            _ => {
                let why = format!("must be 'auto', 'never' or 'only', not {master:?}");
                return Err(to_js(&BusError::InvalidOption { option: "master", why }));
            }
        };
    }
    if let Some(bytes) = js.ring_bytes {
        options.ring_bytes = whole("ringBytes", bytes)?;
    }
    if let Some(slots) = js.slots {
        let slots = whole("slots", slots)?;
        if !slots.is_power_of_two() {
            let why = format!("must be a power of two from 64 to 16777216, not {slots}");
            return Err(to_js(&BusError::InvalidOption { option: "slots", why }));
        }
        options.log2_slots = slots.trailing_zeros();
        // An attachment may have a quarter of the slots in flight.
        options.headers = options.headers.min((slots / 4).max(64));
    }
    if let Some(headers) = js.headers {
        options.headers = whole("headers", headers)?;
    }
    options.runtime_directory = js.runtime_directory.map(PathBuf::from);
    if let Some(timeout) = js.timeout_ms {
        options.timeout = milliseconds("timeout", timeout)?;
    }
    options.protocol = js.protocol.unwrap_or(0);
    Ok(options)
}

/// The options of a subscribe. A deadline alone means `block`, a lag alone `evict`.
pub fn subscribe_options_of(js: NativeSubscribeOptions) -> Result<SubscribeOptions> {
    let invalid = |option, why: &str| Err(to_js(&BusError::InvalidOption { option, why: why.to_owned() }));
    let kind = match (js.overload.as_deref(), js.deadline_ms, js.max_lag) {
        (Some(kind), ..) => Some(kind),
        (None, Some(_), _) => Some("block"),
        (None, None, Some(_)) => Some("evict"),
        (None, None, None) => None,
    };
    let overload = match kind {
        None => None,
        Some("block") => {
            let deadline = milliseconds("deadline", js.deadline_ms.unwrap_or(100.0))?;
            Some(Overload::Block { deadline })
        }
        Some("pinned") => Some(Overload::Pinned),
        Some("lossy") => Some(Overload::Lossy),
        Some("evict") => {
            Some(Overload::Evict { max_lag: js.max_lag.map(|lag| whole("maxLag", lag)).transpose()? })
        }
        Some(other) => {
            let why = format!("must be 'block', 'pinned', 'lossy' or 'evict', not {other:?}");
            return invalid("overload", &why);
        }
    };
    if js.deadline_ms.is_some() && kind != Some("block") {
        return invalid("deadline", "goes with overload 'block' only");
    }
    if js.max_lag.is_some() && kind != Some("evict") {
        return invalid("maxLag", "goes with overload 'evict' only");
    }
    let timeout = milliseconds("timeout", js.timeout_ms)?;
    Ok(SubscribeOptions { overload, timeout, records: js.records })
}
