//! Which of a process's instructions another process can have to do with.
//!
//! Two processes of a bus meet in shared memory and in the kernel, nowhere else. So what the others find when a process
//! is killed depends only on the stores to shared memory and the system calls that it has behind it: between two of
//! those, all instructions are the same place to be killed at. What a process does after it was stopped depends, besides,
//! on what it has loaded from shared memory before: between two accesses, of whatever kind, all instructions are the same
//! place to be stopped at. It is therefore enough to visit each place in front of an access; [`Effect`] says which kind
//! of place an instruction is.

use std::collections::HashMap;
use std::fs::{self, File};
use std::ops::Range;
use std::os::unix::fs::FileExt;

use iced_x86::{
    Code, CodeSize, Decoder, DecoderOptions, InstructionInfoFactory, OpAccess, Register, UsedMemory,
};
use libc::user_regs_struct;
use nix::unistd::Pid;

use crate::Outcome;

/// What an instruction is to the other processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Effect {
    /// Nothing: it works on memory and registers of its own.
    Quiet,
    /// It loads from shared memory.
    Load,
    /// It stores to shared memory, or swaps a word there.
    Store,
    /// It is a system call.
    Call,
}

/// An instruction, as far as it matters here.
enum Known {
    Quiet,
    Call,
    Touches(Vec<UsedMemory>),
}

/// The longest instruction.
const LONGEST: usize = 15;

/// Looks at the instructions of a stopped process.
pub struct Watch {
    pid: Pid,
    memory: File,
    known: HashMap<u64, Known>,
    information: InstructionInfoFactory,
    shared: Vec<Range<u64>>,
    private: Vec<Range<u64>>,
}

impl Watch {
    pub fn new(pid: Pid) -> Outcome<Self> {
        let memory = File::open(format!("/proc/{pid}/mem")).map_err(|e| format!("/proc/{pid}/mem: {e}"))?;
        let mut watch = Watch {
            pid,
            memory,
            known: HashMap::new(),
            information: InstructionInfoFactory::new(),
            shared: Vec::new(),
            private: Vec::new(),
        };
        watch.look_at_maps()?;
        Ok(watch)
    }

    fn look_at_maps(&mut self) -> Outcome<()> {
        let path = format!("/proc/{}/maps", self.pid);
        let maps = fs::read_to_string(&path).map_err(|e| format!("{path}: {e}"))?;
        self.shared.clear();
        self.private.clear();
        for line in maps.lines() {
            let mut fields = line.split(' ');
            let (Some((start, end)), Some(rights)) =
                (fields.next().and_then(|range| range.split_once('-')), fields.next())
            else {
                continue;
            };
            let (Ok(start), Ok(end)) = (u64::from_str_radix(start, 16), u64::from_str_radix(end, 16)) else {
                continue;
            };
            let list = if rights.ends_with('s') { &mut self.shared } else { &mut self.private };
            list.push(start..end);
        }
        Ok(())
    }

    /// What the next instruction is to the others.
    pub fn effect(&mut self, regs: &user_regs_struct) -> Outcome<Effect> {
        if !self.known.contains_key(&regs.rip) {
            let known = self.decode(regs.rip)?;
            self.known.insert(regs.rip, known);
        }
        let touched = match &self.known[&regs.rip] {
            Known::Quiet => return Ok(Effect::Quiet),
            Known::Call => {
                // It may map something, and another thread of this process may have done so meanwhile.
                self.look_at_maps()?;
                return Ok(Effect::Call);
            }
            Known::Touches(memories) => memories.clone(),
        };
        let mut effect = Effect::Quiet;
        for memory in &touched {
            let address = memory.virtual_address(0, |register, _, _| value_of(regs, register));
            let Some(address) = address else { continue };
            effect = effect.max(match (self.is_shared(address)?, memory.access()) {
                (false, _) => Effect::Quiet,
                (true, OpAccess::Read | OpAccess::CondRead) => Effect::Load,
                (true, _) => Effect::Store,
            });
        }
        Ok(effect)
    }

    fn is_shared(&mut self, address: u64) -> Outcome<bool> {
        let holds = |list: &[Range<u64>]| list.iter().any(|range| range.contains(&address));
        if !holds(&self.shared) && !holds(&self.private) {
            self.look_at_maps()?;
        }
        Ok(self.shared.iter().any(|range| range.contains(&address)))
    }

    fn decode(&mut self, address: u64) -> Outcome<Known> {
        let mut bytes = [0; LONGEST];
        let length =
            self.memory.read_at(&mut bytes, address).map_err(|e| format!("code at {address:#x}: {e}"))?;
        let mut decoder = Decoder::with_ip(64, &bytes[..length], address, DecoderOptions::NONE);
        let instruction = decoder.decode();
        if matches!(instruction.code(), Code::Syscall | Code::Int_imm8 | Code::Sysenter) {
            return Ok(Known::Call);
        }
        let used = self.information.info(&instruction).used_memory();
        let touches: Vec<UsedMemory> = used
            .iter()
            .filter(|memory| !matches!(memory.access(), OpAccess::None | OpAccess::NoMemAccess))
            .filter(|memory| memory.address_size() != CodeSize::Code16)
            .copied()
            .collect();
        Ok(if touches.is_empty() { Known::Quiet } else { Known::Touches(touches) })
    }
}

/// A register's value; of a segment, its base.
fn value_of(regs: &user_regs_struct, register: Register) -> Option<u64> {
    Some(match register {
        Register::RAX | Register::EAX => regs.rax,
        Register::RBX | Register::EBX => regs.rbx,
        Register::RCX | Register::ECX => regs.rcx,
        Register::RDX | Register::EDX => regs.rdx,
        Register::RSI | Register::ESI => regs.rsi,
        Register::RDI | Register::EDI => regs.rdi,
        Register::RBP | Register::EBP => regs.rbp,
        Register::RSP | Register::ESP => regs.rsp,
        Register::R8 | Register::R8D => regs.r8,
        Register::R9 | Register::R9D => regs.r9,
        Register::R10 | Register::R10D => regs.r10,
        Register::R11 | Register::R11D => regs.r11,
        Register::R12 | Register::R12D => regs.r12,
        Register::R13 | Register::R13D => regs.r13,
        Register::R14 | Register::R14D => regs.r14,
        Register::R15 | Register::R15D => regs.r15,
        Register::FS => regs.fs_base,
        Register::GS => regs.gs_base,
        Register::CS | Register::DS | Register::ES | Register::SS => 0,
        _ => return None,
    })
}
