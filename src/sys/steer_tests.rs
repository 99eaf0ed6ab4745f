use super::*;

/// Runs a program over a packet (from its network header on) as the kernel does.
fn run(program: &[Instruction], packet: &[u8], random: u32) -> u32 {
    let (mut a, mut x, mut pc) = (0u32, 0u32, 0usize);
    let load = |k: u32, size: usize| -> Option<u32> {
        let at = (k.wrapping_sub(NET)) as usize;
        let bytes = packet.get(at..at + size)?;
        Some(bytes.iter().fold(0, |sum, byte| sum << 8 | u32::from(*byte)))
    };
    loop {
        let i = program[pc];
        pc += 1;
        let loaded = match i.code {
            LOAD_WORD if i.k == RANDOM => Some(random),
            LOAD_BYTE => load(i.k, 1),
            LOAD_HALF => load(i.k, 2),
            LOAD_WORD => load(i.k, 4),
            LOAD_HALF_X => load(i.k.wrapping_add(x), 2),
            _ => Some(a),
        };
        // A load beyond the packet ends the program with 0.
        let Some(value) = loaded else { return 0 };
        a = value;
        match i.code {
            LOAD_X_IHL => x = 4 * (load(i.k, 1).unwrap() & 0xf),
            RIGHT => a >>= i.k,
            MULTIPLY => a = a.wrapping_mul(i.k),
            XOR => a ^= i.k,
            XOR_X => a ^= x,
            TO_X => x = a,
            IF_EQUAL => pc += usize::from(if a == i.k { i.jt } else { i.jf }),
            IF_AT_LEAST => pc += usize::from(if a >= i.k { i.jt } else { i.jf }),
            JUMP => pc += i.k as usize,
            RETURN => return i.k,
            LOAD_BYTE | LOAD_HALF | LOAD_WORD | LOAD_HALF_X => {}
            other => panic!("unknown instruction {other:#x}"),
        }
    }
}

fn packet(from: SocketAddr, options: usize) -> Vec<u8> {
    let mut out;
    match from.ip() {
        IpAddr::V4(ip) => {
            out = vec![0; 20 + options];
            out[0] = 0x45 + (options / 4) as u8;
            out[9] = 6;
            out[12..16].copy_from_slice(&ip.octets());
        }
        IpAddr::V6(ip) => {
            out = vec![0; 40];
            out[0] = 0x60;
            out[6] = 6;
            out[8..24].copy_from_slice(&ip.octets());
        }
    }
    out.extend(from.port().to_be_bytes());
    out.extend([0; 18]);
    out
}

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn canary(weight: u8, draw: Draw) -> Plan {
    Plan { serving: 0, canary: Some(Canary { index: 1, weight, draw }), probes: vec![] }
}

#[test]
fn a_serving_slot_alone_is_one_instruction() {
    let plan = Plan { serving: 3, canary: None, probes: vec![] };
    assert_eq!(program(&plan), [plain(RETURN, 3)]);
}

#[test]
fn weights_nought_and_hundred_draw_nothing() {
    assert_eq!(program(&canary(0, Draw::Client(7))), [plain(RETURN, 0)]);
    assert_eq!(program(&canary(100, Draw::Connection)), [plain(RETURN, 1)]);
}

#[test]
fn a_weight_is_one_comparison() {
    assert_eq!(
        program(&canary(25, Draw::Connection)),
        [
            plain(LOAD_WORD, 0xffff_f038),
            branch(IF_AT_LEAST, 0x4000_0000, 1, 0),
            plain(RETURN, 1),
            plain(RETURN, 0),
        ]
    );
}

#[test]
fn the_share_is_exact() {
    for weight in 1..100u8 {
        let code = program(&canary(weight, Draw::Connection));
        let edge = threshold(weight);
        assert_eq!((run(&code, &[], 0), run(&code, &[], edge - 1)), (1, 1));
        assert_eq!((run(&code, &[], edge), run(&code, &[], u32::MAX)), (0, 0));
        let share = f64::from(edge) / 2f64.powi(32) * 100.0;
        assert!((share - f64::from(weight)).abs() < 1e-6, "{weight}: {share}");
    }
}

#[test]
fn probes_reach_their_slot_and_nobody_else_does() {
    let probes = vec![
        Probe { from: at("127.0.0.1:40001"), index: 1 },
        Probe { from: at("[::1]:40002"), index: 2 },
        Probe { from: at("127.0.0.1:40003"), index: 2 },
        Probe { from: at("[::1]:40004"), index: 1 },
    ];
    for canary in [None, Some(Canary { index: 5, weight: 50, draw: Draw::Client(1) })] {
        let code = program(&Plan { serving: 0, canary, probes: probes.clone() });
        for options in [0, 4, 40] {
            assert_eq!(run(&code, &packet(at("127.0.0.1:40001"), options), 0), 1);
            assert_eq!(run(&code, &packet(at("127.0.0.1:40003"), options), 0), 2);
        }
        assert_eq!(run(&code, &packet(at("[::1]:40002"), 0), 0), 2);
        assert_eq!(run(&code, &packet(at("[::1]:40004"), 0), 0), 1);
        // The right port from elsewhere, and our own address with another port.
        for other in ["10.0.0.1:40001", "127.0.0.1:40002", "127.0.0.1:40009", "[::1]:40001", "[::2]:40002"] {
            assert!([0, 5].contains(&run(&code, &packet(at(other), 0), 0)), "{other}");
        }
        // An extension header: no probe, and still an answer.
        let mut extended = packet(at("[::1]:40002"), 0);
        extended[6] = 0;
        assert!([0, 5].contains(&run(&code, &extended, 0)));
    }
}

#[test]
fn an_ipv4_mapped_probe_is_an_ipv4_packet() {
    let probes = vec![Probe { from: at("[::ffff:127.0.0.1]:4000"), index: 1 }];
    let code = program(&Plan { serving: 0, canary: None, probes });
    assert_eq!(run(&code, &packet(at("127.0.0.1:4000"), 0), 0), 1);
}

#[test]
fn a_client_stays_on_its_side_and_growing_weights_only_add() {
    let clients: Vec<SocketAddr> = (0..2000u32)
        .map(|n| {
            if n % 2 == 0 {
                SocketAddr::from((std::net::Ipv4Addr::from(0x0a00_0000 + n), 99))
            } else {
                SocketAddr::from((std::net::Ipv6Addr::from(u128::from(n) << 64 | 5), 99))
            }
        })
        .collect();
    let mut before = vec![0; clients.len()];
    for weight in [1, 10, 50, 90, 100] {
        let code = program(&canary(weight, Draw::Client(0x1234_5678)));
        let now: Vec<u32> = clients.iter().map(|client| run(&code, &packet(*client, 0), 9)).collect();
        assert!(before.iter().zip(&now).all(|(b, n)| b <= n), "somebody went back at {weight}");
        let share = now.iter().sum::<u32>() as f64 / clients.len() as f64 * 100.0;
        assert!((share - f64::from(weight)).abs() < 5.0, "{weight}: {share}");
        // Another port of the same client, another host of the same /64: the same side.
        for (client, side) in clients.iter().zip(&now) {
            let sibling = match client.ip() {
                IpAddr::V4(_) => SocketAddr::new(client.ip(), 1234),
                IpAddr::V6(ip) => SocketAddr::from((std::net::Ipv6Addr::from(u128::from(ip) + 77), 1234)),
            };
            assert_eq!(run(&code, &packet(sibling, 4), 0), *side);
        }
        before = now;
    }
}

#[test]
fn another_salt_draws_other_clients() {
    let a = program(&canary(50, Draw::Client(1)));
    let b = program(&canary(50, Draw::Client(2)));
    let differ = (0..500u32).filter(|n| {
        let packet = packet(SocketAddr::from((std::net::Ipv4Addr::from(0x0a00_0000 + n), 99)), 0);
        run(&a, &packet, 0) != run(&b, &packet, 0)
    });
    assert!(differ.count() > 100);
}

#[test]
fn the_largest_program_fits_the_kernel() {
    let probes = (0..PROBES_MAX)
        .map(|n| Probe { from: SocketAddr::from((std::net::Ipv6Addr::LOCALHOST, n as u16)), index: 1 })
        .collect();
    let plan = Plan { probes, ..canary(50, Draw::Client(1)) };
    assert!(program(&plan).len() < 4096);
}
