//! eBPF by hand: instructions with labels in place of distances. Pure.
//!
//! The kernel's Documentation/bpf/standardization/instruction-set.rst for the encoding, linux/bpf.h for the helpers.

use std::os::fd::{AsRawFd, BorrowedFd};

/// One instruction, as `struct bpf_insn`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// What to do.
    pub code: u8,
    /// The register that is written, and the one that is read in the upper half.
    pub registers: u8,
    /// A distance: of a jump in instructions, of a load or store in bytes.
    pub offset: i16,
    /// The operand.
    pub value: i32,
}

/// A program that leaves the choice to the kernel.
pub(super) const TRIVIAL: [Step; 2] = [
    Step { code: 0xb7, registers: 0, offset: 0, value: 1 },
    Step { code: 0x95, registers: 0, offset: 0, value: 0 },
];

/// A register. Calls take R1 to R5 and destroy them, and return in R0; R6 to R9 stay; [`FRAME`] is the stack's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reg(pub u8);

/// What a call returns, and the program ends with.
pub const R0: Reg = Reg(0);
/// First argument.
pub const R1: Reg = Reg(1);
/// Second argument.
pub const R2: Reg = Reg(2);
/// Third argument.
pub const R3: Reg = Reg(3);
/// Fourth argument.
pub const R4: Reg = Reg(4);
/// Fifth argument.
pub const R5: Reg = Reg(5);
/// Stays over calls.
pub const R6: Reg = Reg(6);
/// Stays over calls.
pub const R7: Reg = Reg(7);
/// Stays over calls.
pub const R8: Reg = Reg(8);
/// Stays over calls.
pub const R9: Reg = Reg(9);
/// The end of 512 bytes of stack; read only.
pub const FRAME: Reg = Reg(10);

/// How many bytes a load or store has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Size {
    /// 4.
    Word = 0x00,
    /// 2.
    Half = 0x08,
    /// 1.
    Byte = 0x10,
    /// 8.
    Double = 0x18,
}

/// Arithmetic: 64 bits, or 32 with the upper half of the result 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    /// `+`
    Add = 0x00,
    /// `-`
    Sub = 0x10,
    /// `*`
    Mul = 0x20,
    /// `|`
    Or = 0x40,
    /// `&`
    And = 0x50,
    /// `<<`
    Left = 0x60,
    /// `>>`
    Right = 0x70,
    /// `^`
    Xor = 0xa0,
    /// `=`
    Move = 0xb0,
}

/// When a jump is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum If {
    /// `==`
    Equal = 0x10,
    /// `>`
    Above = 0x20,
    /// `>=`
    AtLeast = 0x30,
    /// `!=`
    Differs = 0x50,
    /// `>` of signed numbers.
    AboveSigned = 0x60,
    /// `<=` of signed numbers.
    AtMostSigned = 0xd0,
}

/// A function of the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Helper {
    /// R1 map, R2 key: the value's place or 0.
    Lookup = 1,
    /// R1 map, R2 key, R3 value, R4 flags.
    Update = 2,
    /// R1 map, R2 key.
    Delete = 3,
    /// Nanoseconds on CLOCK_MONOTONIC.
    Time = 5,
    /// R1 context, R2 offset from the transport header, R3 room, R4 length: 0 or an error.
    LoadBytes = 26,
    /// As [`Helper::LoadBytes`], with R5 = 1 from the network header.
    LoadBytesFrom = 68,
    /// R1 context, R2 map of sockets, R3 key, R4 flags: 0 or an error.
    Select = 82,
}

/// A place in a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Label(usize);

/// A program that is being written.
#[derive(Debug, Default)]
pub struct Assembler {
    steps: Vec<Step>,
    /// Where each label is.
    places: Vec<Option<usize>>,
    /// Which steps jump where.
    jumps: Vec<(usize, Label)>,
}

impl Assembler {
    /// A label that has no place yet.
    pub fn label(&mut self) -> Label {
        self.places.push(None);
        Label(self.places.len() - 1)
    }

    /// The next instruction has this label.
    pub fn here(&mut self, label: Label) {
        if let Some(place) = self.places.get_mut(label.0) {
            *place = Some(self.steps.len());
        }
    }

    fn push(&mut self, code: u8, to: Reg, from: Reg, offset: i16, value: i32) {
        self.steps.push(Step { code, registers: to.0 | from.0 << 4, offset, value });
    }

    /// `to op= value`, 64 bits.
    pub fn value(&mut self, op: Op, to: Reg, value: i32) {
        self.push(0x07 | op as u8, to, R0, 0, value);
    }

    /// `to op= from`, 64 bits.
    pub fn register(&mut self, op: Op, to: Reg, from: Reg) {
        self.push(0x0f | op as u8, to, from, 0, 0);
    }

    /// `to op= value`, 32 bits.
    pub fn value_32(&mut self, op: Op, to: Reg, value: u32) {
        self.push(0x04 | op as u8, to, R0, 0, value.cast_signed());
    }

    /// `to op= from`, 32 bits.
    pub fn register_32(&mut self, op: Op, to: Reg, from: Reg) {
        self.push(0x0c | op as u8, to, from, 0, 0);
    }

    /// `to = *(at + offset)`
    pub fn load(&mut self, size: Size, to: Reg, at: Reg, offset: i16) {
        self.push(0x61 | size as u8, to, at, offset, 0);
    }

    /// `*(at + offset) = from`
    pub fn store(&mut self, size: Size, at: Reg, offset: i16, from: Reg) {
        self.push(0x63 | size as u8, at, from, offset, 0);
    }

    /// `*(at + offset) = value`
    pub fn store_value(&mut self, size: Size, at: Reg, offset: i16, value: i32) {
        self.push(0x62 | size as u8, at, R0, offset, value);
    }

    /// `*(at + offset) += from`, 64 bits, as one with regard to other processors.
    pub fn add_atomically(&mut self, at: Reg, offset: i16, from: Reg) {
        self.push(0xdb, at, from, offset, 0);
    }

    /// `to` = a map.
    pub fn map(&mut self, to: Reg, map: BorrowedFd<'_>) {
        const BY_DESCRIPTOR: Reg = Reg(1);
        self.push(0x18, to, BY_DESCRIPTOR, 0, map.as_raw_fd());
        self.push(0, R0, R0, 0, 0);
    }

    /// `to` = the place of the stack at `offset` from its end.
    pub fn place(&mut self, to: Reg, offset: i16) {
        self.register(Op::Move, to, FRAME);
        self.value(Op::Add, to, offset.into());
    }

    /// Calls the kernel.
    pub fn call(&mut self, helper: Helper) {
        self.push(0x85, R0, R0, 0, helper as i32);
    }

    /// Goes on there.
    pub fn jump(&mut self, to: Label) {
        self.jumps.push((self.steps.len(), to));
        self.push(0x05, R0, R0, 0, 0);
    }

    /// Goes on there if `register` compares so with `value`, 64 bits.
    pub fn if_value(&mut self, test: If, register: Reg, value: i32, to: Label) {
        self.jumps.push((self.steps.len(), to));
        self.push(0x05 | test as u8, register, R0, 0, value);
    }

    /// Goes on there if `register` compares so with `other`, 64 bits.
    pub fn if_register(&mut self, test: If, register: Reg, other: Reg, to: Label) {
        self.jumps.push((self.steps.len(), to));
        self.push(0x0d | test as u8, register, other, 0, 0);
    }

    /// Goes on there if the lower half of `register` compares so with `value`.
    pub fn if_value_32(&mut self, test: If, register: Reg, value: u32, to: Label) {
        self.jumps.push((self.steps.len(), to));
        self.push(0x06 | test as u8, register, R0, 0, value.cast_signed());
    }

    /// Ends the program with this.
    pub fn end(&mut self, value: i32) {
        self.value(Op::Move, R0, value);
        self.push(0x95, R0, R0, 0, 0);
    }

    /// The program; `None` if a jump goes to a label without a place, or too far: a mistake in what was written.
    pub fn finish(mut self) -> Option<Vec<Step>> {
        for (step, label) in &self.jumps {
            let place = self.places.get(label.0).copied().flatten()?;
            let distance = i16::try_from(place as isize - *step as isize - 1).ok()?;
            self.steps.get_mut(*step)?.offset = distance;
        }
        Some(self.steps)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jumps_find_their_labels_forwards_and_backwards() {
        let mut a = Assembler::default();
        let (start, end) = (a.label(), a.label());
        a.here(start);
        a.if_value(If::Equal, R1, 3, end);
        a.value(Op::Add, R1, 1);
        a.jump(start);
        a.here(end);
        a.end(0);
        let offsets: Vec<i16> = a.finish().unwrap().iter().map(|step| step.offset).collect();
        assert_eq!(offsets, [2, 0, -3, 0, 0]);
    }

    #[test]
    fn a_label_without_a_place_is_a_mistake() {
        let mut a = Assembler::default();
        let nowhere = a.label();
        a.jump(nowhere);
        assert_eq!(a.finish(), None);
    }
}
