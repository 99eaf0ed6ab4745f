//! Runs a program of ours as the kernel does, with maps of its own: for tests against a model.

use super::assembler::Step;
use std::collections::HashMap;

/// One datagram, and what the kernel says of it.
#[derive(Debug, Clone)]
pub struct Packet {
    /// From the network header on.
    pub network: Vec<u8>,
    /// Where the transport header begins.
    pub transport: usize,
    /// `ctx->hash`.
    pub hash: u32,
    /// CLOCK_MONOTONIC.
    pub now: u64,
}

/// The maps, by the descriptors that stand in the program.
#[derive(Debug, Default)]
pub struct Machine {
    /// Entries of each map; an array's are there from the beginning.
    pub maps: HashMap<i32, HashMap<Vec<u8>, Vec<u8>>>,
    /// Which numbers of a map of sockets have one.
    pub sockets: Vec<u32>,
}

/// Memory is addressed by region (the upper half) and place in it.
struct Memory {
    regions: Vec<Vec<u8>>,
    /// Which entry of which map a region is.
    entries: Vec<(usize, i32, Vec<u8>)>,
}

const CONTEXT: usize = 1;
const PACKET: usize = 2;
const STACK: usize = 3;
/// A register with a map in it.
const MAP: u64 = 1 << 62;

fn pointer(region: usize, place: usize) -> u64 {
    (region as u64) << 32 | place as u64
}

impl Memory {
    fn slice(&mut self, at: u64, length: usize) -> &mut [u8] {
        let (region, place) = ((at >> 32) as usize, at as u32 as usize);
        let whole = self.regions.get_mut(region).unwrap_or_else(|| panic!("no region at {at:#x}"));
        let len = whole.len();
        whole.get_mut(place..place + length).unwrap_or_else(|| panic!("{length} bytes at {at:#x} of {len}"))
    }

    fn read(&mut self, at: u64, length: usize) -> u64 {
        let mut bytes = [0; 8];
        bytes[..length].copy_from_slice(self.slice(at, length));
        u64::from_le_bytes(bytes)
    }

    fn write(&mut self, at: u64, length: usize, value: u64) {
        self.slice(at, length).copy_from_slice(&value.to_le_bytes()[..length]);
    }
}

impl Machine {
    /// Runs the program over one datagram; the number of the socket that it chose, if any.
    pub fn run(&mut self, program: &[Step], packet: &Packet) -> Option<u32> {
        let mut context = vec![0; 56];
        let end = packet.network.len();
        context[0..8].copy_from_slice(&pointer(PACKET, packet.transport).to_le_bytes());
        context[8..16].copy_from_slice(&pointer(PACKET, end).to_le_bytes());
        let protocol: u16 = if packet.network[0] >> 4 == 6 { 0x86dd } else { 0x0800 };
        context[20..24].copy_from_slice(&u32::from(protocol.to_be()).to_le_bytes());
        context[32..36].copy_from_slice(&packet.hash.to_le_bytes());
        let regions = vec![Vec::new(), context, packet.network.clone(), vec![0; 512]];
        let mut memory = Memory { regions, entries: Vec::new() };
        let mut registers = [0_u64; 11];
        registers[1] = pointer(CONTEXT, 0);
        registers[10] = pointer(STACK, 512);
        let mut chosen = None;
        let mut at = 0;
        loop {
            let step = program[at];
            at += 1;
            let (to, from) = ((step.registers & 15) as usize, (step.registers >> 4) as usize);
            let place = |base: u64| base.wrapping_add_signed(step.offset.into());
            match step.code & 7 {
                0 => {
                    registers[to] = MAP | u64::from(step.value.cast_unsigned());
                    at += 1;
                }
                1 => registers[to] = memory.read(place(registers[from]), size(step.code)),
                2 => memory.write(place(registers[to]), size(step.code), i64::from(step.value) as u64),
                3 if step.code == 0xdb => {
                    let sum = memory.read(place(registers[to]), 8).wrapping_add(registers[from]);
                    memory.write(place(registers[to]), 8, sum);
                }
                3 => memory.write(place(registers[to]), size(step.code), registers[from]),
                4 | 7 => registers[to] = arithmetic(step, registers[to], registers[from]),
                _ if step.code == 0x85 => {
                    registers[0] = self.call(step.value, &registers, &mut memory, packet, &mut chosen);
                }
                _ if step.code == 0x95 => break,
                _ if jumps(step, registers[to], registers[from]) => {
                    at = at.wrapping_add_signed(step.offset.into())
                }
                _ => {}
            }
        }
        for (region, map, key) in &memory.entries {
            // What was written through a value's place.
            if let Some(value) = self.maps.get_mut(map).and_then(|map| map.get_mut(key)) {
                value.clone_from(&memory.regions[*region]);
            }
        }
        chosen
    }

    fn call(
        &mut self,
        number: i32,
        registers: &[u64; 11],
        memory: &mut Memory,
        packet: &Packet,
        chosen: &mut Option<u32>,
    ) -> u64 {
        let fail = |number: i64| number as u64;
        let descriptor = |register: usize| registers[register] as u32 as i32;
        match number {
            1 => {
                let map = descriptor(1);
                let length = self.key_length(map);
                let key = memory.slice(registers[2], length).to_vec();
                let known = memory.entries.iter().find(|(_, m, k)| *m == map && *k == key).map(|(r, ..)| *r);
                let Some(value) = self.maps[&map].get(&key) else { return 0 };
                let region = known.unwrap_or_else(|| {
                    memory.regions.push(value.clone());
                    memory.entries.push((memory.regions.len() - 1, map, key));
                    memory.regions.len() - 1
                });
                pointer(region, 0)
            }
            2 => {
                let map = descriptor(1);
                let key = memory.slice(registers[2], self.key_length(map)).to_vec();
                let value = memory.slice(registers[3], 16).to_vec();
                memory.entries.retain(|(_, m, k)| *m != map || *k != key);
                self.maps.get_mut(&map).unwrap().insert(key, value);
                0
            }
            3 => {
                let map = descriptor(1);
                let key = memory.slice(registers[2], self.key_length(map)).to_vec();
                memory.entries.retain(|(_, m, k)| *m != map || *k != key);
                self.maps.get_mut(&map).unwrap().remove(&key).map_or(fail(-2), |_| 0)
            }
            5 => packet.now,
            26 | 68 => {
                let start = if number == 26 { packet.transport } else { 0 } + registers[2] as usize;
                let length = registers[4] as usize;
                let Some(bytes) = packet.network.get(start..start + length) else { return fail(-14) };
                memory.slice(registers[3], length).copy_from_slice(bytes);
                0
            }
            82 => {
                let slot = memory.read(registers[3], 4) as u32;
                if !self.sockets.contains(&slot) {
                    return fail(-2);
                }
                *chosen = Some(slot);
                0
            }
            other => panic!("helper {other}"),
        }
    }

    fn key_length(&self, map: i32) -> usize {
        self.maps[&map].keys().next().map_or(20, Vec::len)
    }
}

fn size(code: u8) -> usize {
    match code & 0x18 {
        0x00 => 4,
        0x08 => 2,
        0x10 => 1,
        _ => 8,
    }
}

fn operand(step: Step, from: u64) -> u64 {
    if step.code & 8 == 0 { i64::from(step.value) as u64 } else { from }
}

fn arithmetic(step: Step, to: u64, from: u64) -> u64 {
    let other = operand(step, from);
    let narrow = step.code & 7 == 4;
    let (to, other) = if narrow { (to as u32 as u64, other as u32 as u64) } else { (to, other) };
    let result = match step.code & 0xf0 {
        0x00 => to.wrapping_add(other),
        0x10 => to.wrapping_sub(other),
        0x20 => to.wrapping_mul(other),
        0x40 => to | other,
        0x50 => to & other,
        0x60 => to << (other & 63),
        0x70 => to >> (other & 63),
        0xa0 => to ^ other,
        0xb0 => other,
        unknown => panic!("arithmetic {unknown:#x}"),
    };
    if narrow { u64::from(result as u32) } else { result }
}

fn jumps(step: Step, to: u64, from: u64) -> bool {
    let other = operand(step, from);
    let narrow = step.code & 7 == 6;
    let (a, b) = if narrow { (u64::from(to as u32), u64::from(other as u32)) } else { (to, other) };
    match step.code & 0xf0 {
        0x00 => true,
        0x10 => a == b,
        0x20 => a > b,
        0x30 => a >= b,
        0x50 => a != b,
        0x60 => a.cast_signed() > b.cast_signed(),
        0xd0 => a.cast_signed() <= b.cast_signed(),
        unknown => panic!("jump {unknown:#x}"),
    }
}
