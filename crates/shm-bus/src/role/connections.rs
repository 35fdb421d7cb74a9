//! Sockets of the master's role: who connects, what arrives, what is sent.

use super::*;

impl Role {
    pub(super) fn add(&mut self, client: Client) -> Result<u64> {
        let n = self.next_client;
        self.next_client += 1;
        if let Some(channel) = &client.channel {
            self.poller.add(channel.as_fd(), 2 * n, Interest::READ)?;
        }
        if let Some(pidfd) = &client.pidfd {
            self.poller.add(pidfd.as_fd(), 2 * n + 1, Interest::READ)?;
        }
        self.clients.insert(n, client);
        Ok(n)
    }

    /// One event of the poller that is not the control thread's own.
    pub fn on_event(&mut self, token: u64) {
        if token == LISTENER {
            self.accept();
            return;
        }
        let n = token / 2;
        if token % 2 == 1 {
            if self.clients.contains_key(&n) {
                self.remove(n, Departure::Died, false);
            }
            return;
        }
        let mut buffer = vec![0; MAX_DATAGRAM];
        // Bounded, so that one who floods does not keep the others waiting; the poller reports the rest again.
        for _ in 0..64 {
            let Some(client) = self.clients.get(&n) else {
                return;
            };
            let Some(channel) = &client.channel else { return };
            match channel.recv(&mut buffer) {
                Ok(Received::Message { len, fds, .. }) => self.on_message(n, &buffer[..len], fds),
                Ok(Received::Empty) => break,
                // Without a word: whoever closes says so first. That its process is dead is often not to be seen yet.
                Ok(Received::Closed) => {
                    self.remove(n, Departure::Died, false);
                    return;
                }
                // A truncated message is no message; what came with it is closed.
                Err(error) if !error.is_disconnected() && error.errno().is_none() => {}
                Err(_) => {
                    self.remove(n, Departure::Died, false);
                    return;
                }
            }
        }
        self.push(n);
    }

    pub(super) fn accept(&mut self) {
        loop {
            let Some(socket) = &self.socket else { return };
            // Whoever holds a copy of the socket can make its description one that waits.
            if !socket.listener.has_waiting().unwrap_or(false) {
                break;
            }
            let channel = match socket.listener.accept() {
                Ok(Some(channel)) => channel,
                Ok(None) => break,
                Err(_) => {
                    // No descriptors left: whoever knocks waits in the backlog until the next housekeeping.
                    let _ = self.poller.remove(socket.listener.as_fd());
                    self.listening = false;
                    self.next_housekeeping = Instant::now() + HOUSEKEEPING;
                    break;
                }
            };
            if self.clients.values().filter(|c| c.member.is_none()).count() >= MAX_STRANGERS {
                continue;
            }
            // One that cannot be looked at, or that belongs to another user, is let go by dropping its channel.
            if let Ok(client) = Client::connected(channel) {
                if client.credentials.uid == process::uid() {
                    let _ = self.add(client);
                } else {
                    let mut client = client;
                    let why = format!(
                        "the bus belongs to uid {}, you are uid {}",
                        process::uid(),
                        client.credentials.uid
                    );
                    client.send(wire::with_greeting(&Reply::Refused { why }), Attachments::None);
                }
            }
        }
    }

    /// Sends what client `n` has waiting, and asks to be told when more can be sent.
    pub(super) fn push(&mut self, n: u64) {
        let Some(client) = self.clients.get_mut(&n) else {
            return;
        };
        if !client.flush() {
            self.remove(n, Departure::Died, false);
            return;
        }
        if client.is_flooded() {
            self.remove(n, Departure::Closed, false);
            return;
        }
        if let Some(channel) = &client.channel {
            let interest = if client.has_mail() { Interest::BOTH } else { Interest::READ };
            let _ = self.poller.modify(channel.as_fd(), 2 * n, interest);
        }
    }

    pub(super) fn send(&mut self, n: u64, bytes: Vec<u8>, attachments: Attachments) {
        if let Some(client) = self.clients.get_mut(&n) {
            client.send(bytes, attachments);
            self.push(n);
        }
    }

    pub(super) fn reply(&mut self, n: u64, reply: &Reply) {
        self.send(n, wire::encode(reply), Attachments::None);
    }

    pub(super) fn on_message(&mut self, n: u64, bytes: &[u8], fds: Vec<OwnedFd>) {
        let Some(client) = self.clients.get(&n) else {
            return;
        };
        let Some(member) = client.member else {
            self.on_greeting(n, bytes, fds);
            return;
        };
        // Bytes that are no request are ignored: they can only be their sender's loss.
        let Some(request) = wire::decode::<Request>(bytes) else {
            return;
        };
        if client.is_flooded() {
            self.remove(n, Departure::Closed, false);
            return;
        }
        match request {
            Request::Open { request, names } => self.open(n, request, names),
            Request::Join { request, addresses, policy } => self.join(n, member, request, addresses, policy),
            Request::Leave { request, addresses, lossy, last } => {
                self.leave(n, member, request, addresses, lossy, last);
            }
            Request::Ring { member } => self.send_ring(n, member),
            Request::Evicted { id } => self.record_eviction(id),
            Request::Detach => self.remove(n, Departure::Closed, true),
            Request::Ping => self.reply(n, &Reply::Pong),
            Request::Reign => self.introduce(n),
            Request::Hello { .. } | Request::Again { .. } => {}
        }
    }

    pub(super) fn drop_client(&mut self, n: u64) -> Option<Client> {
        let client = self.clients.remove(&n)?;
        if let Some(channel) = &client.channel {
            let _ = self.poller.remove(channel.as_fd());
        }
        if let Some(pidfd) = &client.pidfd {
            let _ = self.poller.remove(pidfd.as_fd());
        }
        Some(client)
    }
}
