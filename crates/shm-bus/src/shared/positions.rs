//! Where the subscriptions of this attachment are, and what they want: their cursor and their memberships.

use super::*;

struct Reading {
    position: u64,
    policy: WirePolicy,
}

/// The counting subscriptions; the cursor is the smallest of their positions.
#[derive(Default)]
pub(super) struct Positions {
    by_subscription: BTreeMap<u32, Reading>,
    /// How often this attachment had been evicted when these were taken: an eviction ends all of them at once.
    evictions: u8,
}

impl Shared {
    /// Stores a subscription's position and with it the cursor. Publishers that wait for space are woken. Nothing
    /// happens for a subscription that is closed, or from before an eviction.
    pub fn advance(&self, subscription: u32, evictions: u8, position: u64) {
        let mut positions = lock(&self.positions);
        if positions.evictions == evictions
            && let Some(held) = positions.by_subscription.get_mut(&subscription)
        {
            held.position = position;
            self.store_cursor(&positions);
        }
    }

    /// The number of a new subscription.
    pub fn number_subscription(&self) -> u32 {
        self.next_subscription.fetch_add(1, Ordering::Relaxed) as u32
    }

    /// A new counting subscription, holding the cursor where it is until its own position is known.
    ///
    /// # Errors
    /// [`BusError::InvalidOption`] if those that count already asked for another policy.
    pub fn reserve_position(&self, number: u32, policy: WirePolicy) -> Result<()> {
        let evictions = self.own_word().map_or(0, MemberWord::evictions);
        let mut positions = lock(&self.positions);
        if positions.evictions != evictions {
            *positions = Positions { evictions, ..Positions::default() };
        }
        if policy != WirePolicy::AsBefore {
            let given = |r: &&Reading| r.policy != WirePolicy::AsBefore && r.policy != policy;
            if let Some(Reading { policy: shared, .. }) = positions.by_subscription.values().find(given) {
                let why = format!(
                    "must be {shared} as in this attachment's other subscriptions, or 'lossy'; attach once more for another"
                );
                return Err(BusError::InvalidOption { option: "overload", why });
            }
        }
        // Below its start whatever happens: the floor that the role stores holds it up.
        let cursor = self.own.region.load(payload::CURSOR, Memory::Relaxed);
        positions.by_subscription.insert(number, Reading { position: cursor, policy });
        Ok(())
    }

    /// A new counting subscription has joined, when the attachment had been evicted so often: it is none of those that
    /// ended when that happened while it was asking.
    pub fn take_position(&self, number: u32, evictions: u8, policy: WirePolicy, position: u64) {
        let mut positions = lock(&self.positions);
        if positions.evictions != evictions {
            *positions = Positions { evictions, ..Positions::default() };
        }
        positions.by_subscription.insert(number, Reading { position, policy });
        self.store_cursor(&positions);
    }

    /// Takes a subscription out; `true` if it was the last.
    pub fn release_position(&self, subscription: u32) -> bool {
        let mut positions = lock(&self.positions);
        let counted = positions.by_subscription.remove(&subscription).is_some();
        self.store_cursor(&positions);
        counted && positions.by_subscription.is_empty()
    }

    pub(super) fn store_cursor(&self, positions: &Positions) {
        let Some(cursor) = positions.by_subscription.values().map(|r| r.position).min() else {
            return;
        };
        if self.own.region.load(payload::CURSOR, Memory::Relaxed) == cursor {
            return;
        }
        if self.sequencer.store_cursor(&self.own.region, cursor) {
            self.release_space();
        }
    }
}

/// Which addresses this attachment's subscriptions want, and how many of them each.
impl Shared {
    pub fn count_memberships(&self, addresses: &[Address], lossy: bool) {
        let mut memberships = lock(&self.memberships);
        for address in addresses {
            *memberships.entry((address.0, lossy)).or_default() += 1;
        }
    }

    /// Gives the addresses that no subscription of that kind wants any more.
    pub fn uncount_memberships(&self, addresses: &[Address], lossy: bool) -> Vec<u64> {
        let mut memberships = lock(&self.memberships);
        let mut gone = Vec::new();
        for address in addresses {
            if let Some(count) = memberships.get_mut(&(address.0, lossy)) {
                *count -= 1;
                if *count == 0 {
                    memberships.remove(&(address.0, lossy));
                    gone.push(address.0);
                }
            }
        }
        gone
    }
}
