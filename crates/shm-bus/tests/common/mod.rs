//! What the tests of the bus share: a private place for it, and waiting for a condition.

// Each test binary uses its own part of this.
#![allow(dead_code)]

use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use shm_bus::{
    Address, AttachOptions, Bus, BusError, Envelope, Event, MAX_DEADLINE, Overload, Publisher,
    SubscribeOptions, Subscription, WaitStrategy,
};

/// Far longer than anything here takes on a loaded machine.
pub const LONG: Duration = Duration::from_secs(60);

/// A private runtime directory that must be empty when the test is over.
pub struct Scratch(pub PathBuf);

impl Scratch {
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("shm-bus-test-{}-{n}", std::process::id()));
        std::fs::create_dir(&path).unwrap();
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
        Scratch(path)
    }

    pub fn options(&self) -> AttachOptions {
        AttachOptions {
            runtime_directory: Some(self.0.clone()),
            ring_bytes: 1 << 16,
            headers: 64,
            timeout: LONG,
            ..Default::default()
        }
    }

    pub fn attach(&self) -> Bus {
        Bus::attach("test", &self.options()).unwrap()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            std::fs::remove_dir(&self.0).expect("nothing is left behind");
        }
    }
}

/// Waits for a condition. It has to become true; how long it takes says nothing.
#[track_caller]
pub fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < LONG, "never came true: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Subscribed in a way that no slow machine costs its place.
pub fn patient() -> SubscribeOptions {
    SubscribeOptions {
        overload: Some(Overload::Block { deadline: MAX_DEADLINE }),
        timeout: LONG,
        ..Default::default()
    }
}

/// Publishes, waiting for room; gives the stamp.
#[track_caller]
pub fn publish(publisher: &mut Publisher, to: Address, bytes: &[u8]) -> u64 {
    loop {
        match publisher.publish(&[to], bytes, Envelope::default()) {
            Ok(stamp) => return stamp.0,
            Err(BusError::WouldBlock { .. }) => drop(publisher.wait_writable(LONG).unwrap()),
            Err(error) => panic!("{error}"),
        }
    }
}

/// Stamp and bytes of the next `want` messages.
#[track_caller]
pub fn read(subscription: &mut Subscription, want: usize) -> Vec<(u64, Vec<u8>)> {
    let start = Instant::now();
    let mut got = Vec::new();
    while got.len() < want {
        assert!(start.elapsed() < LONG, "only {} of {want} messages came", got.len());
        subscription.wait(WaitStrategy::Park, Duration::from_millis(50)).unwrap();
        let place = |event: Event<'_>| {
            if let Event::Message(m) = event {
                got.push((m.frame.place.stamp.0, m.to_vec()));
            }
        };
        subscription.poll(16, place).unwrap();
    }
    got
}

/// Another process of this test binary, running one of its tests as `role`. Killed if it is still there at the end.
pub struct Child(std::process::Child);

const ROLE: &str = "SHM_BUS_TEST_ROLE";
const PLACE: &str = "SHM_BUS_TEST_PLACE";

impl Child {
    /// Starts the test `child` of this binary in another process. `files` limits its file descriptors.
    pub fn start(scratch: &Scratch, role: &str, files: Option<u32>) -> Child {
        let limit = files.map_or(String::new(), |n| format!("ulimit -n {n} && "));
        let child = std::process::Command::new("sh")
            .arg("-c")
            .arg(format!("{limit}exec \"$0\" --exact child --nocapture"))
            .arg(std::env::current_exe().unwrap())
            .env(ROLE, role)
            .env(PLACE, &scratch.0)
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        Child(child)
    }

    /// In the child: what it is to do, and where.
    pub fn role() -> Option<(String, AttachOptions)> {
        let role = std::env::var(ROLE).ok()?;
        let place = PathBuf::from(std::env::var_os(PLACE).unwrap());
        // The directory is the parent's to remove.
        let options = std::mem::ManuallyDrop::new(Scratch(place)).options();
        Some((role, options))
    }

    pub fn signal(&self, name: &str) {
        let status =
            std::process::Command::new("sh").arg("-c").arg(format!("kill -{name} {}", self.0.id())).status();
        assert!(status.unwrap().success());
    }

    /// Stops the process, and returns when all its threads stand still.
    pub fn stop(&self) {
        self.signal("STOP");
        until("the child is stopped", || {
            let tasks = std::fs::read_dir(format!("/proc/{}/task", self.0.id())).unwrap();
            tasks.into_iter().all(|task| {
                let stat = std::fs::read_to_string(task.unwrap().path().join("stat")).unwrap_or_default();
                stat.rsplit_once(')').is_none_or(|(_, rest)| rest.starts_with(" T"))
            })
        });
    }

    pub fn is_running(&mut self) -> bool {
        self.0.try_wait().unwrap().is_none()
    }

    pub fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }

    /// Waits for it to end well.
    #[track_caller]
    pub fn finish(mut self) {
        let mut status = None;
        until("the child ends", || {
            status = self.0.try_wait().unwrap();
            status.is_some()
        });
        assert!(status.unwrap().success(), "the child: {status:?}");
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A small generator of numbers (xorshift64*, Vigna), so that a run can be repeated.
pub struct Dice(pub u64);

impl Dice {
    pub fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % sides
    }
}

/// A thread, to be seen falling asleep.
#[derive(Default)]
pub struct Task(Mutex<Option<std::path::PathBuf>>);

impl Task {
    /// By the thread itself.
    pub fn begin(&self) {
        *self.0.lock().unwrap() = Some(std::fs::read_link("/proc/thread-self").unwrap());
    }

    /// Whether it sleeps in the kernel.
    pub fn sleeps(&self) -> bool {
        let Some(task) = self.0.lock().unwrap().clone() else { return false };
        let stat = std::fs::read_to_string(std::path::Path::new("/proc").join(task).join("stat"));
        stat.is_ok_and(|s| s.rsplit_once(')').is_some_and(|(_, rest)| rest.starts_with(" S")))
    }
}
