//! Taking the master's role: from the swap of the term to the first record of the new reign.

use std::sync::Arc;

use shm_bus_os::{Channel, Poller};
use shm_bus_ring::{AttachmentId, Control, PublishError};

use crate::directory_memory::{DirectoryReader, DirectoryWriter};
use crate::error::{BusError, Result};
use crate::record::Record;
use crate::replica::Replica;
use crate::role::{Former, Role};
use crate::shared::Shared;
use crate::socket::{Prepared, Socket};

/// A role that was won in a term, before its `master` record is in the order.
///
/// That record comes first: whatever the former master still got into the order stands below it, and is applied before
/// anything is decided. A ring that is full holds it up; then it is tried again until there is room, or until somebody
/// else has taken the next term.
pub(crate) struct Succession {
    shared: Arc<Shared>,
    role: Role,
    replica: Replica,
    /// The control word from before this reign announced anything.
    control: Control,
    /// Whether it does without what it cannot know.
    incomplete: bool,
    former: Former,
    directory: DirectoryReader,
    channel: Channel,
    /// Made where the former master's socket is not here.
    prepared: Option<Prepared>,
}

/// A reign that has begun.
pub(crate) struct Reign {
    pub role: Role,
    pub directory: DirectoryReader,
    /// The end of the side channel that is this attachment's own.
    pub channel: Channel,
    pub socket: Arc<Socket>,
}

pub(crate) enum Begun {
    NotYet(Box<Succession>),
    Reign(Box<Reign>),
}

impl Succession {
    /// Takes the term behind `seen`, if `seen` is still the present one.
    ///
    /// Everything that can fail for want of descriptors or memory comes before the term is swapped. One that has never
    /// read the directory of the last master, and can no longer read all of its records in the order, leaves the role to
    /// those who have; `incomplete` when nobody else has taken it for long.
    pub fn take(
        shared: &Arc<Shared>,
        poller: &Arc<Poller>,
        seen: u64,
        has_hung_up: bool,
        incomplete: bool,
    ) -> Result<Option<Self>> {
        let sequencer = &shared.sequencer;
        let me = AttachmentId(shared.member.id);
        let mut replica = Replica::new(shared)?;
        let (before, tail) = (sequencer.control(), sequencer.find()?.stamp);
        if !replica.inherit(shared, tail, before)? && !incomplete {
            return Ok(None);
        }
        let memory = DirectoryWriter::create()?;
        let directory = DirectoryReader::open(memory.fd())?;
        let (channel, masters) = Channel::pair()?;
        let prepared = match shared.reign().socket {
            Some(_) => None,
            None => Some(Socket::prepare(&shared.place, (seen + 1) << 16 | u64::from(me.0))?),
        };
        let mut role = Role::new(shared.clone(), seen + 1, memory, poller.clone())?;
        role.add_own(masters)?;
        let present = sequencer.term();
        if present.0 != seen || sequencer.take_term(present, me).is_err() {
            return Ok(None);
        }
        let former = Former { id: present.1, has_hung_up };
        let (control, shared) = (sequencer.control(), shared.clone());
        Ok(Some(Succession {
            shared,
            role,
            replica,
            control,
            incomplete,
            former,
            directory,
            channel,
            prepared,
        }))
    }

    /// Publishes the `master` record if there is room for it, and with it the reign begins.
    pub fn begin(mut self: Box<Self>) -> Result<Begun> {
        let record = Record::Master { member: self.shared.member };
        let stamp = match self.role.put_in_order(&record) {
            Ok(stamp) => stamp,
            Err(PublishError::Full(full)) => {
                self.role.relieve(&full);
                return Ok(Begun::NotYet(self));
            }
            // The term has passed on, or this attachment is no member any more.
            Err(_) => return Err(BusError::Closed),
        };
        let Succession {
            shared,
            mut role,
            mut replica,
            control,
            incomplete,
            former,
            directory,
            channel,
            prepared,
        } = *self;
        if !replica.inherit(&shared, stamp, control)? && !incomplete {
            return Err(BusError::Closed);
        }
        role.succeed(&replica, stamp, &record, former)?;
        let socket = match (prepared, shared.reign().socket) {
            (Some(prepared), _) => Arc::new(prepared.place()?),
            (None, Some(socket)) => socket,
            (None, None) => return Err(BusError::Closed),
        };
        Ok(Begun::Reign(Box::new(Reign { role, directory, channel, socket })))
    }
}
