//! The program that gives each datagram to the slot of its flow. Pure; its maps are [`super::Flows`]'.
//!
//! It is asked for every datagram of an SO_REUSEPORT group (linux/bpf.h, `struct sk_reuseport_md`): where the payload's tag
//! names a slot, that one; else the slot that the flow's remote address and port is remembered with, while its generation
//! has the slot (its epoch is the slot's) and the last datagram is not too old; else a draw between the serving slot and the
//! canary's. A flow's first datagram is remembered in one table and its second in another, so that sources that send once,
//! forged ones or not, push out nobody. What was taken down at a switch comes first and is never pushed out.
//!
//! Where a chosen slot has no socket, the serving one's gets the datagram, then any; at last the kernel's own hash.

use crate::sys::bpf::assembler::{
    Assembler, FRAME, Helper, If, Label, Op, R0, R1, R2, R3, R4, R5, R6, R7, R8, R9, Size, Step,
};
use std::os::fd::BorrowedFd;

/// The maps.
#[derive(Debug, Clone, Copy)]
pub(super) struct Maps<'a> {
    pub(super) plan: BorrowedFd<'a>,
    pub(super) slots: BorrowedFd<'a>,
    pub(super) fresh: BorrowedFd<'a>,
    pub(super) known: BorrowedFd<'a>,
    pub(super) kept: BorrowedFd<'a>,
    pub(super) tags: BorrowedFd<'a>,
    pub(super) counts: BorrowedFd<'a>,
}

/// How many slots there are.
pub(super) const SLOTS: u32 = 16;
/// Bits of a slot's number.
const SLOT_BITS: i32 = 4;
const SLOT_MASK: i32 = 15;

/// The plan's flags, as they stand in bits 16 to 31 of its word: draw by the client's address.
pub(super) const BY_CLIENT: u64 = 1 << 16;
/// Look at tags.
pub(super) const TAGS: u64 = 1 << 17;
/// Look at what was taken down at a switch.
pub(super) const KEPT: u64 = 1 << 18;

/// Where the plan's parts stand: the word, the salt, the time-out, and an epoch of four bytes for each slot.
const SALT: i16 = 8;
const TIMEOUT: i16 = 16;
pub(super) const EPOCHS: i16 = 24;
/// Bytes of a plan.
pub(super) const PLAN: u32 = EPOCHS as u32 + 4 * SLOTS;

/// Counters: the first [`SLOTS`] are flows drawn for each slot, then as many of datagrams that their tag brought there.
pub(super) const TAGGED: u32 = SLOTS;
/// Counters altogether.
pub(super) const COUNTERS: u32 = 2 * SLOTS;

/// Bytes of a flow's key: 16 of the address, 2 of the port, 2 of nothing.
pub(super) const KEY: u32 = 20;
/// Bytes of what is remembered: the slot and its epoch in four, four of nothing, eight of the time.
pub(super) const FLOW: u32 = 16;

// The stack.
const NUMBER: i16 = -4;
const BYTES: i16 = -8;
const ADDRESS: i16 = -32;
const PORT: i16 = -16;
const NOW: i16 = -40;
const REMEMBERED: i16 = -56;
const WHEN: i16 = -48;

// The registers that stay.
const CONTEXT: crate::sys::bpf::assembler::Reg = R6;
const SLOT: crate::sys::bpf::assembler::Reg = R7;
const PLACE: crate::sys::bpf::assembler::Reg = R8;
const WORD: crate::sys::bpf::assembler::Reg = R9;

// `struct sk_reuseport_md`.
const DATA: i16 = 0;
const DATA_END: i16 = 8;
const PROTOCOL: i16 = 20;
const HASH: i16 = 32;
/// ETH_P_IPV6 in network order, read by a little-endian machine.
const IPV6: u32 = 0xdd86;

struct Writer<'a> {
    a: Assembler,
    maps: Maps<'a>,
    to_flow: Label,
    to_draw: Label,
    to_serving: Label,
    to_count: Label,
    to_select: Label,
}

/// Writes it; `None` is a mistake in here.
pub(super) fn write(maps: Maps<'_>) -> Option<Vec<Step>> {
    let mut a = Assembler::default();
    let [to_flow, to_draw, to_serving, to_count, to_select] = [(); 5].map(|()| a.label());
    let mut w = Writer { a, maps, to_flow, to_draw, to_serving, to_count, to_select };
    w.begin();
    w.tag();
    w.key();
    w.kept();
    w.known();
    w.fresh();
    w.draw();
    w.remember();
    w.count();
    w.select();
    w.a.finish()
}

impl Writer<'_> {
    /// PLACE = the plan, WORD = its first word, read once: no half of another plan.
    fn begin(&mut self) {
        let a = &mut self.a;
        let there = a.label();
        a.register(Op::Move, CONTEXT, R1);
        a.store_value(Size::Word, FRAME, NUMBER, 0);
        a.map(R1, self.maps.plan);
        a.place(R2, NUMBER);
        a.call(Helper::Lookup);
        a.if_value(If::Differs, R0, 0, there);
        a.end(1);
        a.here(there);
        a.load(Size::Double, WORD, R0, 0);
        a.register(Op::Move, PLACE, R0);
    }

    /// Goes on at `to` unless the plan has this flag.
    fn unless(&mut self, flag: u64, to: Label) {
        let a = &mut self.a;
        a.register(Op::Move, R1, WORD);
        a.value(Op::And, R1, flag as i32);
        a.if_value(If::Equal, R1, 0, to);
    }

    /// A QUIC datagram with a short header: the first byte of its connection ID may be a tag (RFC 9000, 17.3).
    fn tag(&mut self) {
        self.unless(TAGS, self.to_flow);
        let a = &mut self.a;
        a.register(Op::Move, R1, CONTEXT);
        a.value(Op::Move, R2, 8);
        a.place(R3, BYTES);
        a.value(Op::Move, R4, 2);
        a.call(Helper::LoadBytes);
        a.if_value(If::Differs, R0, 0, self.to_flow);
        a.load(Size::Byte, R1, FRAME, BYTES);
        a.value(Op::And, R1, 0xc0);
        a.if_value(If::Differs, R1, 0x40, self.to_flow);
        a.load(Size::Byte, R1, FRAME, BYTES + 1);
        a.store(Size::Word, FRAME, NUMBER, R1);
        a.map(R1, self.maps.tags);
        a.place(R2, NUMBER);
        a.call(Helper::Lookup);
        a.if_value(If::Equal, R0, 0, self.to_flow);
        a.load(Size::Word, SLOT, R0, 0);
        a.if_value(If::Equal, SLOT, 0, self.to_flow);
        a.value(Op::Sub, SLOT, 1);
        a.value(Op::And, SLOT, SLOT_MASK);
        a.register(Op::Move, R1, SLOT);
        a.value(Op::Add, R1, TAGGED as i32);
        a.jump(self.to_count);
    }

    /// The flow's key, IPv4 addresses in IPv6's form, and the time.
    fn key(&mut self) {
        let a = &mut self.a;
        let (v6, got) = (a.label(), a.label());
        a.here(self.to_flow);
        a.load(Size::Double, R2, CONTEXT, DATA);
        a.load(Size::Double, R3, CONTEXT, DATA_END);
        a.register(Op::Move, R1, R2);
        a.value(Op::Add, R1, 8);
        a.if_register(If::Above, R1, R3, self.to_serving);
        a.store_value(Size::Word, FRAME, PORT, 0);
        a.load(Size::Half, R1, R2, 0);
        a.store(Size::Half, FRAME, PORT, R1);
        a.load(Size::Word, R1, CONTEXT, PROTOCOL);
        a.if_value_32(If::Equal, R1, IPV6, v6);
        a.store_value(Size::Double, FRAME, ADDRESS, 0);
        a.store_value(Size::Word, FRAME, ADDRESS + 8, 0xffff_0000_u32.cast_signed());
        load_from_network(a, 12, ADDRESS + 12, 4);
        a.jump(got);
        a.here(v6);
        load_from_network(a, 8, ADDRESS, 16);
        a.here(got);
        a.if_value(If::Differs, R0, 0, self.to_serving);
        a.call(Helper::Time);
        a.store(Size::Double, FRAME, NOW, R0);
    }

    fn look_up(&mut self, map: BorrowedFd<'_>, otherwise: Label) {
        let a = &mut self.a;
        a.map(R1, map);
        a.place(R2, ADDRESS);
        a.call(Helper::Lookup);
        a.if_value(If::Equal, R0, 0, otherwise);
    }

    fn delete(&mut self, map: BorrowedFd<'_>) {
        let a = &mut self.a;
        a.map(R1, map);
        a.place(R2, ADDRESS);
        a.call(Helper::Delete);
    }

    /// SLOT = slot and epoch of what R0 points to, R2 = how old it is, R3 = the time-out; to `dead` if it is too old or
    /// the slot has been given to another generation. The time is compared with its sign: another processor may be ahead.
    fn check(&mut self, dead: Label) {
        let a = &mut self.a;
        a.load(Size::Word, SLOT, R0, 0);
        a.register(Op::Move, R1, SLOT);
        a.value(Op::And, R1, SLOT_MASK);
        a.value(Op::Left, R1, 2);
        a.register(Op::Add, R1, PLACE);
        a.load(Size::Word, R2, R1, EPOCHS);
        a.register(Op::Move, R1, SLOT);
        a.value(Op::Right, R1, SLOT_BITS);
        a.if_register(If::Differs, R1, R2, dead);
        a.load(Size::Double, R2, FRAME, NOW);
        a.load(Size::Double, R1, R0, 8);
        a.register(Op::Sub, R2, R1);
        a.load(Size::Double, R3, PLACE, TIMEOUT);
        a.if_register(If::AboveSigned, R2, R3, dead);
    }

    /// The flow's slot it is; its time is written at most sixteen times in a time-out.
    fn found(&mut self) {
        let a = &mut self.a;
        a.value(Op::And, SLOT, SLOT_MASK);
        a.value(Op::Right, R3, 4);
        a.if_register(If::AtMostSigned, R2, R3, self.to_select);
        a.load(Size::Double, R1, FRAME, NOW);
        a.store(Size::Double, R0, 8, R1);
        a.jump(self.to_select);
    }

    fn kept(&mut self) {
        let (gone, on) = (self.a.label(), self.a.label());
        self.unless(KEPT, on);
        self.look_up(self.maps.kept, on);
        self.check(gone);
        self.found();
        self.a.here(gone);
        self.delete(self.maps.kept);
        self.a.here(on);
    }

    fn known(&mut self) {
        let (gone, on) = (self.a.label(), self.a.label());
        self.look_up(self.maps.known, on);
        self.check(gone);
        self.found();
        self.a.here(gone);
        self.delete(self.maps.known);
        self.a.jump(self.to_draw);
        self.a.here(on);
    }

    /// The second datagram of a flow: it is known from now on.
    fn fresh(&mut self) {
        self.look_up(self.maps.fresh, self.to_draw);
        self.check(self.to_draw);
        let a = &mut self.a;
        a.store(Size::Word, FRAME, REMEMBERED, SLOT);
        a.value(Op::And, SLOT, SLOT_MASK);
        self.write_down(self.maps.known);
        self.delete(self.maps.fresh);
        self.a.jump(self.to_select);
    }

    /// Remembers the flow with what the stack has of it.
    fn write_down(&mut self, map: BorrowedFd<'_>) {
        let a = &mut self.a;
        a.store_value(Size::Word, FRAME, REMEMBERED + 4, 0);
        a.load(Size::Double, R1, FRAME, NOW);
        a.store(Size::Double, FRAME, WHEN, R1);
        a.map(R1, map);
        a.place(R2, ADDRESS);
        a.place(R3, REMEMBERED);
        a.value(Op::Move, R4, 0);
        a.call(Helper::Update);
    }

    /// SLOT = the canary's if the flow's (or the client's) hash is below the threshold, else the serving one. The same
    /// flow draws the same while the salt and the threshold stand.
    fn draw(&mut self) {
        let (by_flow, mix, drawn) = (self.a.label(), self.a.label(), self.a.label());
        let a = &mut self.a;
        a.here(self.to_draw);
        a.register(Op::Move, SLOT, WORD);
        a.value(Op::And, SLOT, SLOT_MASK);
        a.register(Op::Move, R5, WORD);
        a.value(Op::Right, R5, 32);
        a.if_value(If::Equal, R5, 0, drawn);
        self.unless(BY_CLIENT, by_flow);
        let a = &mut self.a;
        a.load(Size::Word, R4, FRAME, ADDRESS + 12);
        a.load(Size::Word, R1, CONTEXT, PROTOCOL);
        a.if_value_32(If::Differs, R1, IPV6, mix);
        // A client has a network of its own, and many addresses in it.
        a.load(Size::Word, R4, FRAME, ADDRESS);
        a.load(Size::Word, R1, FRAME, ADDRESS + 4);
        a.value_32(Op::Mul, R1, 0x85eb_ca6b);
        a.register_32(Op::Xor, R4, R1);
        a.jump(mix);
        a.here(by_flow);
        a.load(Size::Word, R4, CONTEXT, HASH);
        a.here(mix);
        a.load(Size::Word, R1, PLACE, SALT);
        a.register_32(Op::Xor, R4, R1);
        for (shift, factor) in [(16, Some(0x85eb_ca6b)), (13, Some(0xc2b2_ae35)), (16, None)] {
            a.register_32(Op::Move, R1, R4);
            a.value_32(Op::Right, R1, shift);
            a.register_32(Op::Xor, R4, R1);
            if let Some(factor) = factor {
                a.value_32(Op::Mul, R4, factor);
            }
        }
        a.if_register(If::AtLeast, R4, R5, drawn);
        a.register(Op::Move, SLOT, WORD);
        a.value(Op::Right, SLOT, SLOT_BITS);
        a.value(Op::And, SLOT, SLOT_MASK);
        a.here(drawn);
    }

    /// Remembers what was drawn, and lets it be counted.
    fn remember(&mut self) {
        let a = &mut self.a;
        a.register(Op::Move, R1, SLOT);
        a.value(Op::Left, R1, 2);
        a.register(Op::Add, R1, PLACE);
        a.load(Size::Word, R1, R1, EPOCHS);
        a.value(Op::Left, R1, SLOT_BITS);
        a.register(Op::Or, R1, SLOT);
        a.store(Size::Word, FRAME, REMEMBERED, R1);
        self.write_down(self.maps.fresh);
        self.a.register(Op::Move, R1, SLOT);
    }

    /// Counts with the counter that R1 names.
    fn count(&mut self) {
        let a = &mut self.a;
        a.here(self.to_count);
        a.store(Size::Word, FRAME, NUMBER, R1);
        a.map(R1, self.maps.counts);
        a.place(R2, NUMBER);
        a.call(Helper::Lookup);
        a.if_value(If::Equal, R0, 0, self.to_select);
        a.value(Op::Move, R1, 1);
        a.add_atomically(R0, 0, R1);
        a.jump(self.to_select);
        a.here(self.to_serving);
        a.register(Op::Move, SLOT, WORD);
        a.value(Op::And, SLOT, SLOT_MASK);
    }

    fn select(&mut self) {
        let done = self.a.label();
        self.a.here(self.to_select);
        self.try_slot(done);
        self.a.register(Op::Move, SLOT, WORD);
        self.a.value(Op::And, SLOT, SLOT_MASK);
        self.try_slot(done);
        for slot in 0..4 {
            self.a.value(Op::Move, SLOT, slot);
            self.try_slot(done);
        }
        self.a.here(done);
        self.a.end(1);
    }

    fn try_slot(&mut self, done: Label) {
        let a = &mut self.a;
        a.store(Size::Word, FRAME, NUMBER, SLOT);
        a.register(Op::Move, R1, CONTEXT);
        a.map(R2, self.maps.slots);
        a.place(R3, NUMBER);
        a.value(Op::Move, R4, 0);
        a.call(Helper::Select);
        a.if_value(If::Equal, R0, 0, done);
    }
}

/// Reads so many bytes of the packet, from its network header on, onto the stack.
fn load_from_network(a: &mut Assembler, offset: i32, to: i16, length: i32) {
    a.register(Op::Move, R1, CONTEXT);
    a.value(Op::Move, R2, offset);
    a.place(R3, to);
    a.value(Op::Move, R4, length);
    a.value(Op::Move, R5, 1);
    a.call(Helper::LoadBytesFrom);
}
