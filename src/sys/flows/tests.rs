use super::*;
use crate::sys::bpf::interpreter::{Machine, Packet};
use crate::sys::socket::{self, Place};
use crate::unit::{Address, Listen, ListenKind, undeclared_socket};
use proptest::prelude::*;
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

const SECOND: u64 = 1_000_000_000;

/// Members of a group, slot by slot, with the program attached; `None` where the kernel lets nobody.
fn group(at: &str, count: u32, max: u32, timeout: Span) -> Option<(Flows, Vec<UdpSocket>, SocketAddr)> {
    let flows = match Flows::new(max, timeout) {
        Ok(flows) => flows,
        Err(error) => {
            println!("skipped: {error}");
            return None;
        }
    };
    let listen = Listen { kind: ListenKind::Datagram, address: Address::Inet(at.parse().unwrap()) };
    let options = undeclared_socket("test", listen.clone()).options;
    let first = socket::open(&listen, &options, Place::FirstSlot).ok()?;
    let at = first.at.unwrap();
    let mut members = vec![UdpSocket::from(first.fd)];
    for _ in 1..count {
        let next = socket::open(&listen, &options, Place::NextSlot { at, owned: first.owned }).unwrap();
        members.push(UdpSocket::from(next.fd));
    }
    for (slot, member) in members.iter().enumerate() {
        member.set_nonblocking(true).unwrap();
        flows.place(slot as u32, member.as_fd()).unwrap();
    }
    flows.attach(members[0].as_fd()).unwrap();
    Some((flows, members, at))
}

fn client(at: SocketAddr) -> UdpSocket {
    let ip = if at.is_ipv6() { "[::1]:0" } else { "127.0.0.1:0" };
    let client = UdpSocket::bind(ip).unwrap();
    client.connect(at).unwrap();
    client
}

/// Which member has a datagram; exactly one has.
fn taker(members: &[UdpSocket]) -> usize {
    let mut taken = Vec::new();
    for (slot, member) in members.iter().enumerate() {
        while member.recv(&mut [0; 64]).is_ok() {
            taken.push(slot);
        }
    }
    assert_eq!(taken.len(), 1, "{taken:?}");
    taken[0]
}

fn send(client: &UdpSocket, members: &[UdpSocket]) -> usize {
    client.send(b"x").unwrap();
    taker(members)
}

#[test]
fn the_verifier_takes_the_program() {
    let Ok(flows) = Flows::new(64, Span::from_secs(1)) else { return println!("skipped") };
    let Flows { plan, slots, fresh, known, kept, tags, counts, .. } = &flows;
    let maps = Maps {
        plan: plan.as_fd(),
        slots: slots.as_fd(),
        fresh: fresh.as_fd(),
        known: known.as_fd(),
        kept: kept.as_fd(),
        tags: tags.as_fd(),
        counts: counts.as_fd(),
    };
    let code = program::write(maps).unwrap();
    bpf::load_or_explain(bpf::SK_REUSEPORT, "aeterna_test", &code);
    assert!(code.len() < 400, "{} instructions", code.len());
}

#[test]
fn a_flow_stays_where_it_began_and_new_ones_follow_the_plan() {
    for at in ["127.0.0.1:0", "[::1]:0"] {
        let Some((mut flows, members, at)) = group(at, 3, 1024, Span::from_secs(60)) else { return };
        let old: Vec<_> = (0..20).map(|_| client(at)).collect();
        // Half of them have sent once, half twice.
        for (n, client) in old.iter().enumerate() {
            assert_eq!(send(client, &members), 0);
            if n % 2 == 0 {
                assert_eq!(send(client, &members), 0);
            }
        }
        for serving in [1, 2, 1] {
            flows.steer(Plan { serving, canary: None }).unwrap();
            assert!(old.iter().all(|client| send(client, &members) == 0), "{at}");
            let new = client(at);
            assert_eq!(send(&new, &members), serving as usize);
            assert_eq!(send(&new, &members), serving as usize);
        }
        let live = flows.live().unwrap();
        assert_eq!(live.values().map(|live| live.count).collect::<Vec<_>>(), [20, 2, 1]);
        // The slot of their generation is vacated: the next datagram is a new flow's.
        flows.vacate(0).unwrap();
        assert!(old.iter().all(|client| send(client, &members) == 1));
        assert_eq!(flows.live().unwrap().get(&0), None);
        assert_eq!([0, 1, 2].map(|slot| flows.drawn(slot)), [20, 22, 1]);
    }
}

#[test]
fn a_silent_flow_is_a_new_one() {
    let Some((mut flows, members, at)) = group("127.0.0.1:0", 2, 1024, Span::from_millis(50)) else { return };
    let client = client(at);
    assert_eq!([send(&client, &members), send(&client, &members)], [0, 0]);
    flows.steer(Plan { serving: 1, canary: None }).unwrap();
    let until = clock::now() + Span::from_secs(20);
    while !flows.live().unwrap().is_empty() {
        assert!(clock::now() < until);
        std::thread::yield_now();
    }
    assert_eq!(send(&client, &members), 1);
}

#[test]
fn shares_are_kept_and_a_growing_weight_only_adds() {
    let Some((mut flows, members, at)) = group("127.0.0.1:0", 2, 4096, Span::from_secs(60)) else { return };
    let mut before: Vec<usize> = Vec::new();
    let clients: Vec<_> = (0..400).map(|_| client(at)).collect();
    for weight in [10, 50, 100] {
        // A flow that the table has forgotten is drawn again.
        flows.vacate(0).unwrap();
        flows.vacate(1).unwrap();
        flows.steer(Plan { serving: 0, canary: Some((1, weight, Draw::Connection)) }).unwrap();
        let now: Vec<usize> = clients.iter().map(|client| send(client, &members)).collect();
        let canary = now.iter().sum::<usize>();
        let expected = 4 * usize::from(weight);
        assert!(canary.abs_diff(expected) <= 40, "{canary} of 400 at {weight} %");
        assert!(before.iter().zip(&now).all(|(before, now)| before <= now), "one went back");
        before = now;
    }
    flows.vacate(0).unwrap();
    flows.vacate(1).unwrap();
    flows.steer(Plan { serving: 0, canary: Some((1, 50, Draw::Client(7))) }).unwrap();
    let sides: HashSet<usize> = clients.iter().map(|client| send(client, &members)).collect();
    assert_eq!(sides.len(), 1, "one client, one side");
}

#[test]
fn where_a_slot_has_no_socket_the_serving_one_gets_it() {
    let Some((mut flows, members, at)) = group("127.0.0.1:0", 2, 1024, Span::from_secs(60)) else { return };
    let client = client(at);
    assert_eq!(send(&client, &members), 0);
    flows.steer(Plan { serving: 1, canary: None }).unwrap();
    flows.clear(0);
    assert_eq!(send(&client, &members), 1);
    flows.place(0, members[0].as_fd()).unwrap();
    assert_eq!(send(&client, &members), 0, "its slot is there again, and it was never another's");
}

fn take_down(flows: &Flows, slot: u32) -> u32 {
    flows.keeper(Some(slot)).unwrap().run().unwrap()
}

/// Datagrams from sources of which none is seen again: each has an address of its own.
fn flood(at: SocketAddr, members: &[UdpSocket], count: u32, twice: bool) {
    for n in 0..count {
        let [_, a, b, c] = n.to_be_bytes();
        let one = UdpSocket::bind(SocketAddr::from(([127, 1 + a, b, c], 0))).unwrap();
        one.connect(at).unwrap();
        for _ in 0..1 + usize::from(twice) {
            // A full queue is no matter.
            let _ = one.send(b"f");
        }
        for member in members {
            while member.recv(&mut [0; 64]).is_ok() {}
        }
    }
}

#[test]
fn who_sends_once_pushes_out_nobody() {
    let Some((mut flows, members, at)) = group("127.0.0.1:0", 2, 1024, Span::from_secs(600)) else { return };
    let real: Vec<_> = (0..50).map(|_| client(at)).collect();
    for client in &real {
        assert_eq!([send(client, &members), send(client, &members)], [0, 0]);
    }
    flows.steer(Plan { serving: 1, canary: None }).unwrap();
    flood(at, &members, 12_000, false);
    assert!(real.iter().all(|client| send(client, &members) == 0));
}

#[test]
fn what_was_taken_down_at_the_switch_is_pushed_out_by_nobody() {
    let Some((mut flows, members, at)) = group("127.0.0.1:0", 3, 1024, Span::from_secs(600)) else { return };
    let real: Vec<_> = (0..50).map(|_| client(at)).collect();
    for client in &real {
        assert_eq!(send(client, &members), 0);
    }
    flows.keep(0).unwrap();
    assert_eq!(take_down(&flows, 0), 50);
    flows.steer(Plan { serving: 1, canary: None }).unwrap();
    assert_eq!(take_down(&flows, 0), 0, "they are all there already");
    flood(at, &members, 8_000, true);
    assert_eq!(real.iter().filter(|client| send(client, &members) == 0).count(), 50);
    assert_eq!(flows.live().unwrap()[&0].count, 50, "a drain sees them");
    // The next switch beside them.
    let between = client(at);
    assert_eq!(send(&between, &members), 1);
    flows.keep(1).unwrap();
    assert!(take_down(&flows, 1) > 0);
    flows.steer(Plan { serving: 2, canary: None }).unwrap();
    flows.vacate(0).unwrap();
    assert!(real.iter().all(|client| send(client, &members) == 2));
    assert_eq!(send(&between, &members), 1);
    flows.vacate(1).unwrap();
    assert_eq!(flows.figures.keeps, 0, "nothing is kept for anybody");
    flows.keeper(None).unwrap().run().unwrap();
    assert_eq!(keys_of(&flows.kept).unwrap().len(), 0);
    assert_eq!(send(&between, &members), 2);
}

#[test]
fn a_walk_of_many_flows_is_short() {
    let Ok(flows) = Flows::new(65_536, Span::from_secs(600)) else { return println!("skipped") };
    let now = clock::now().0;
    let mut keys = Vec::new();
    let mut values = Vec::new();
    for n in 0..60_000_u32 {
        keys.extend([0; 16]);
        keys.extend(n.to_ne_bytes());
        values.extend((1_u32 << 4).to_ne_bytes());
        values.extend([0; 4]);
        values.extend(now.to_ne_bytes());
    }
    flows.known.set_all(&keys, &values, 60_000).unwrap();
    let began = std::time::Instant::now();
    let live = flows.live().unwrap()[&0].count;
    let walked = began.elapsed();
    let kept = take_down(&flows, 0);
    println!("{live} flows: a walk {walked:?}, kept in {:?}", began.elapsed() - walked);
    assert!(live > 50_000 && kept == live);
    assert!(walked < Duration::from_secs(2));
}

#[test]
fn what_comes_by_its_tag_keeps_a_generation_alive() {
    let Some((mut flows, members, at)) = group("127.0.0.1:0", 2, 1024, Span::from_secs(60)) else { return };
    flows.tag(9, Some(1)).unwrap();
    assert_eq!(flows.live().unwrap(), BTreeMap::new());
    let client = client(at);
    client.send(&[0x5a, 9, 0]).unwrap();
    assert_eq!((taker(&members), flows.tagged(1)), (1, 1));
    let live = flows.live().unwrap();
    assert_eq!((live.len(), live[&1].count), (1, 1), "it is in no table");
    // A long header has another's connection ID, and a tag that nobody has is none.
    for other in [[0xda, 9, 0], [0x5a, 8, 0]] {
        client.send(&other).unwrap();
        assert_eq!(taker(&members), 0);
    }
    flows.tag(9, None).unwrap();
    flows.vacate(1).unwrap();
    assert_eq!(flows.live().unwrap().get(&1), None);
    client.send(&[0x5a, 9, 0]).unwrap();
    assert_eq!(taker(&members), 0);
}

/// What the program is to do, in another way.
#[derive(Debug, Default)]
struct Model {
    /// Slot, its epoch, when it was last written, and whether it was seen twice.
    flows: HashMap<(IpAddr, u16), (u32, u32, u64, bool)>,
    epochs: [u32; 16],
}

#[derive(Debug, Clone)]
enum Deed {
    Datagram { from: SocketAddr, tag: Option<u8>, options: usize },
    Wait(u64),
    Steer(Plan),
    Vacate(u32),
    Place(u32, bool),
    Tag(u8, u32),
}

fn deed() -> impl Strategy<Value = Deed> {
    let ip = prop_oneof![
        (0..4_u8).prop_map(|n| IpAddr::from([10, 0, 0, n])),
        (0..4_u128).prop_map(|n| IpAddr::V6((0xfd00_u128 << 112 | n << 64 | n).into())),
    ];
    let from = (ip, 1..4_u16).prop_map(SocketAddr::from);
    let tag = prop_oneof![Just(None), (0..6_u8).prop_map(Some)];
    let draw = prop_oneof![Just(Draw::Connection), any::<u32>().prop_map(Draw::Client)];
    let canary = proptest::option::of((0..4_u32, 0..=100_u8, draw));
    prop_oneof![
        12 => (from, tag, 0..2_usize).prop_map(|(from, tag, o)| Deed::Datagram { from, tag, options: 8 * o }),
        2 => (0..40 * SECOND).prop_map(Deed::Wait),
        2 => (0..4_u32, canary).prop_map(|(serving, canary)| Deed::Steer(Plan { serving, canary })),
        1 => (0..4_u32).prop_map(Deed::Vacate),
        1 => (0..4_u32, any::<bool>()).prop_map(|(slot, there)| Deed::Place(slot, there)),
        1 => (0..6_u8, 0..4_u32).prop_map(|(tag, slot)| Deed::Tag(tag, slot)),
    ]
}

fn datagram(from: SocketAddr, tag: Option<u8>, options: usize, hash: u32, now: u64) -> Packet {
    let mut network;
    match from.ip() {
        IpAddr::V4(ip) => {
            network = vec![0; 20 + options];
            network[0] = 0x45 + (options / 4) as u8;
            network[12..16].copy_from_slice(&ip.octets());
        }
        IpAddr::V6(ip) => {
            network = vec![0; 40 + options];
            network[0] = 0x60;
            network[8..24].copy_from_slice(&ip.octets());
        }
    }
    let transport = network.len();
    network.extend(from.port().to_be_bytes());
    network.extend([0; 6]);
    match tag {
        Some(tag) => network.extend([0x40 | tag, tag, 1, 2]),
        None => network.extend([0xc0, 9, 9]),
    }
    Packet { network, transport, hash, now }
}

fn mix(mut x: u32) -> u32 {
    x ^= x >> 16;
    x = x.wrapping_mul(0x85eb_ca6b);
    x ^= x >> 13;
    x = x.wrapping_mul(0xc2b2_ae35);
    x ^ x >> 16
}

impl Model {
    fn wants(&mut self, figures: &Figures, from: SocketAddr, hash: u32, now: u64) -> u32 {
        let key = (from.ip(), from.port());
        if let Some((slot, epoch, last, twice)) = self.flows.get_mut(&key)
            && self.epochs[*slot as usize] == *epoch
            && now - *last <= figures.timeout.0
        {
            if now - *last > figures.timeout.0 / 16 || !*twice {
                *last = now;
            }
            *twice = true;
            return *slot;
        }
        let slot = match figures.canary {
            Some((slot, weight, draw)) if weight > 0 => {
                let number = match (draw, from.ip()) {
                    (Draw::Connection, _) => hash,
                    (Draw::Client(_), IpAddr::V4(ip)) => u32::from_le_bytes(ip.octets()),
                    (Draw::Client(_), IpAddr::V6(ip)) => {
                        let word =
                            |at: usize| u32::from_le_bytes(ip.octets()[at..at + 4].try_into().unwrap());
                        word(0) ^ word(4).wrapping_mul(0x85eb_ca6b)
                    }
                };
                let drawn = u64::from(mix(number ^ figures.salt));
                if weight >= 100 || drawn < (u64::from(weight) << 32) / 100 { slot } else { figures.serving }
            }
            Some(_) | None => figures.serving,
        };
        self.flows.insert(key, (slot, self.epochs[slot as usize], now, false));
        slot
    }
}

/// What the kernel's maps hold is what the interpreter's do: the plan is copied over after each change.
fn mirror(flows: &Flows, machine: &mut Machine, numbers: &[i32; 7]) {
    let mut plan = vec![0; PLAN as usize];
    flows.plan.get(&0_u32.to_ne_bytes(), &mut plan).unwrap();
    machine.maps.entry(numbers[0]).or_default().insert(vec![0; 4], plan);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn the_program_does_what_the_model_says(deeds in proptest::collection::vec(deed(), 1..60)) {
        let Ok(mut flows) = Flows::new(1024, Span::from_secs(30)) else { return Ok(()) };
        let (parts, _) = flows.parts();
        let fds = parts.each_ref().map(|(_, fd)| *fd);
        let [plan, slots, fresh, known, kept, tags, counts, _] = fds;
        let code = program::write(Maps { plan, slots, fresh, known, kept, tags, counts }).unwrap();
        let numbers = [plan, slots, fresh, known, kept, tags, counts].map(|fd| fd.as_raw_fd());
        let mut machine = Machine { sockets: vec![0, 1, 2, 3], ..Machine::default() };
        for number in numbers {
            machine.maps.entry(number).or_default();
        }
        let number = |n: u32| n.to_ne_bytes().to_vec();
        machine.maps.insert(numbers[5], (0..256).map(|n| (number(n), vec![0; 4])).collect());
        machine.maps.insert(numbers[6], (0..COUNTERS).map(|n| (number(n), vec![0; 8])).collect());
        mirror(&flows, &mut machine, &numbers);
        let mut model = Model { epochs: [1; 16], ..Model::default() };
        let mut now = 1000 * SECOND;
        let mut named: HashMap<u8, u32> = HashMap::new();
        for deed in deeds {
            match deed {
                Deed::Wait(time) => now += time,
                Deed::Steer(plan) => flows.steer(plan).unwrap(),
                Deed::Vacate(slot) => {
                    flows.vacate(slot).unwrap();
                    model.epochs[slot as usize] += 1;
                }
                Deed::Place(slot, true) if !machine.sockets.contains(&slot) => machine.sockets.push(slot),
                Deed::Place(slot, false) => machine.sockets.retain(|at| *at != slot),
                Deed::Place(..) => {}
                Deed::Tag(tag, slot) => {
                    flows.tag(tag, Some(slot)).unwrap();
                    named.insert(tag, slot);
                    machine.maps.get_mut(&numbers[5]).unwrap().insert(number(tag.into()), number(slot + 1));
                }
                Deed::Datagram { from, tag, options } => {
                    let hash = mix(u32::from(from.port()) ^ u32::from(from.is_ipv6()));
                    let packet = datagram(from, tag, options, hash, now);
                    let by_tag = tag.and_then(|tag| named.get(&tag)).copied();
                    let wanted = match by_tag {
                        Some(slot) => slot,
                        None => model.wants(&flows.figures, from, hash, now),
                    };
                    let serving = (flows.word() & 15) as u32;
                    let mut choices = [wanted, serving, 0, 1, 2, 3].into_iter();
                    let there = choices.find(|slot| machine.sockets.contains(slot));
                    prop_assert_eq!(machine.run(&code, &packet), there, "{:?} of {:?}", from, flows.figures);
                }
            }
            mirror(&flows, &mut machine, &numbers);
        }
    }
}
