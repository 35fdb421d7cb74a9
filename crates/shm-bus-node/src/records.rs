//! Control records as JavaScript objects.

use napi_derive::napi;
use shm_bus::{Address, Departure, Record};

/// One control record.
#[napi(object)]
pub struct NativeRecord {
    /// Its place in the order.
    pub stamp: f64,
    /// `master`, `attached`, `departed`, `group`, `joined`, `left`, `kept` or `evicted`.
    pub kind: String,
    /// Internal id of the attachment it is about.
    pub id: Option<u32>,
    /// Generation of that id.
    pub generation: Option<u32>,
    /// Address of the attachment or group.
    pub address: Option<String>,
    /// Addresses joined or left.
    pub addresses: Option<Vec<String>>,
    /// Name of the group, or reason of the departure.
    pub text: Option<String>,
    /// Process id.
    pub pid: Option<u32>,
    /// User id.
    pub uid: Option<u32>,
    /// Group id.
    pub gid: Option<u32>,
}

fn text_of(addresses: &[u64]) -> Vec<String> {
    addresses.iter().map(|a| Address(*a).to_string()).collect()
}

pub fn to_js(stamp: u64, record: &Record) -> NativeRecord {
    let mut js = NativeRecord {
        stamp: stamp as f64,
        kind: String::new(),
        id: None,
        generation: None,
        address: None,
        addresses: None,
        text: None,
        pid: None,
        uid: None,
        gid: None,
    };
    let (kind, member) = match record {
        Record::Master { member } => ("master", Some(member)),
        Record::Attached { member, address, credentials } => {
            js.address = Some(Address(*address).to_string());
            js.pid = Some(credentials.pid);
            js.uid = Some(credentials.uid);
            js.gid = Some(credentials.gid);
            ("attached", Some(member))
        }
        Record::Departed { member, address, departure } => {
            js.address = Some(Address(*address).to_string());
            js.text = Some(match departure {
                Departure::Closed => "closed".into(),
                Departure::Died => "died".into(),
            });
            ("departed", Some(member))
        }
        Record::Group { address, name } => {
            js.address = Some(Address(*address).to_string());
            js.text = Some(name.clone());
            ("group", None)
        }
        Record::Joined { member, addresses, .. } => {
            js.addresses = Some(text_of(addresses));
            ("joined", Some(member))
        }
        // Another subscription of it goes on taking all of them: nothing has changed for the others.
        Record::Left { member, addresses, kept, .. } if addresses.is_empty() && !kept.is_empty() => {
            ("kept", Some(member))
        }
        Record::Left { member, addresses, .. } => {
            js.addresses = Some(text_of(addresses));
            ("left", Some(member))
        }
        Record::Evicted { member, .. } => ("evicted", Some(member)),
    };
    js.kind = kind.into();
    js.id = member.map(|m| u32::from(m.id));
    js.generation = member.map(|m| m.generation);
    js
}
