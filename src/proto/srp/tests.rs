use super::*;
use proptest::prelude::*;

#[derive(serde::Deserialize)]
struct Vectors {
    valid: Vec<Valid>,
    invalid: Vec<Invalid>,
}

#[derive(serde::Deserialize)]
struct Valid {
    name: String,
    #[serde(rename = "type")]
    kind: String,
    payload: String,
    frame: String,
    canonical: bool,
}

#[derive(serde::Deserialize)]
struct Invalid {
    name: String,
    frame: String,
    code: String,
}

fn vectors() -> Vectors {
    serde_json::from_str(include_str!("../../../tests/vectors/srp.json")).unwrap()
}

fn bytes_of(hex: &str) -> Vec<u8> {
    hex.as_bytes()
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

/// What a stream holds: messages, and state with whole payloads.
#[derive(Debug, Clone, PartialEq)]
enum Whole {
    Message(Message),
    State(FrameType, Vec<u8>),
}

/// Reads everything, in chunks of these sizes (the last one repeats).
fn read_all(bytes: &[u8], sizes: &[usize]) -> Result<(Vec<Whole>, Decoder), FrameError> {
    let mut decoder = Decoder::new();
    let mut found = Vec::new();
    let mut open: Option<(FrameType, Vec<u8>)> = None;
    let mut sizes = sizes.iter().copied();
    let mut size = 0;
    let mut rest = bytes;
    while !rest.is_empty() {
        size = sizes.next().unwrap_or(size).max(1);
        let (chunk, after) = rest.split_at(size.min(rest.len()));
        rest = after;
        let mut chunk = chunk;
        while let Some(piece) = decoder.next(&mut chunk)? {
            match piece {
                Piece::Message(message) => found.push(Whole::Message(message)),
                Piece::State(header) => open = Some((header.kind, Vec::new())),
                Piece::Body(body) => open.as_mut().unwrap().1.extend_from_slice(body),
                Piece::End => {
                    let (kind, payload) = open.take().unwrap();
                    found.push(Whole::State(kind, payload));
                }
            }
        }
    }
    Ok((found, decoder))
}

#[test]
fn golden_frames_are_read_and_written() {
    for vector in vectors().valid {
        let (frame, payload) = (bytes_of(&vector.frame), bytes_of(&vector.payload));
        let (found, decoder) = read_all(&frame, &[frame.len()]).unwrap();
        assert!(decoder.is_between_frames(), "{}", vector.name);
        assert_eq!(found.len(), 1, "{}", vector.name);
        match &found[0] {
            Whole::State(kind, body) => {
                assert_eq!((kind.name(), body), (vector.kind.as_str(), &payload), "{}", vector.name);
                let header = Header::new(*kind, body.len()).unwrap();
                assert_eq!(header.to_bytes(), frame[..HEADER], "{}", vector.name);
            }
            Whole::Message(message) => {
                assert_eq!(message.kind().name(), vector.kind, "{}", vector.name);
                assert_eq!(message.to_bytes() == frame, vector.canonical, "{}", vector.name);
            }
        }
    }
}

#[test]
fn golden_errors_are_named() {
    for vector in vectors().invalid {
        let error = read_all(&bytes_of(&vector.frame), &[1]).expect_err(&vector.name);
        assert_eq!(error.code(), vector.code, "{}: {error}", vector.name);
        assert!(!error.to_string().is_empty());
    }
}

#[test]
fn a_peers_error_is_read_whatever_it_looks_like() {
    let read = |payload: &[u8]| match Message::parse(FrameType::Error, payload).unwrap() {
        Message::Error(complaint) => (complaint.code, complaint.message),
        other => panic!("{other:?}"),
    };
    assert_eq!(read(br#"{"code":7,"message":"no"}"#), ("7".into(), "no".into()));
    assert_eq!(read(br#"{"message":null}"#), (String::new(), String::new()));
    assert_eq!(read(b"out of cheese"), (String::new(), "out of cheese".into()));
    assert_eq!(read(b""), (String::new(), String::new()));
}

#[test]
fn an_endless_complaint_is_cut_to_a_frame() {
    for text in ["\u{1}".repeat(1_000_000), "ä".repeat(1_000_000)] {
        let frame = Message::error(&text, text.clone()).to_bytes();
        let (found, _) = read_all(&frame, &[frame.len()]).unwrap();
        assert!(matches!(&found[..], [Whole::Message(Message::Error(c))] if c.message.len() > 1000));
    }
}

#[test]
fn the_largest_state_frame_is_streamed_and_never_held() {
    let header = Header { kind: FrameType::StateBytes, payload: u32::MAX - 8 };
    assert_eq!(Header::parse(&header.to_bytes()), Ok(header));
    let mut decoder = Decoder::new();
    let bytes = header.to_bytes();
    let mut input = &bytes[..];
    assert_eq!(decoder.next(&mut input), Ok(Some(Piece::State(header))));
    assert_eq!(decoder.next(&mut input), Ok(None));
    assert_eq!(decoder.wanted(), (u32::MAX - 8) as usize);
    assert!(decoder.memory() < 64, "nothing is kept for what a peer has announced");
}

#[test]
fn a_reader_that_takes_what_is_wanted_never_reaches_into_the_next_frame() {
    let mut stream = Vec::new();
    for vector in vectors().valid {
        stream.extend(bytes_of(&vector.frame));
    }
    let mut decoder = Decoder::new();
    let mut rest = &stream[..];
    let mut ends = 0;
    while !rest.is_empty() {
        let (mut chunk, after) = rest.split_at(decoder.wanted().min(rest.len()));
        rest = after;
        while let Some(piece) = decoder.next(&mut chunk).unwrap() {
            if matches!(piece, Piece::Message(_) | Piece::End) {
                ends += 1;
                assert!(chunk.is_empty() && decoder.is_between_frames());
            }
        }
    }
    assert_eq!(ends, vectors().valid.len());
}

fn whole() -> impl Strategy<Value = Whole> {
    let kinds: Vec<FrameType> = FrameType::ALL.into_iter().filter(|k| k.is_state()).collect();
    let state = (prop::sample::select(kinds), prop::collection::vec(any::<u8>(), 0..300));
    prop_oneof![
        state.prop_map(|(kind, payload)| Whole::State(kind, payload)),
        (any::<u32>(), any::<bool>()).prop_map(|(generation, predecessor)| Whole::Message(Message::Hello(
            Hello::Coordinator { generation, predecessor }
        ))),
        ("\\PC{0,20}", "\\PC{0,50}").prop_map(|(code, text)| Whole::Message(Message::error(&code, text))),
        any::<Option<(u64, Option<u64>)>>().prop_map(|totals| Whole::Message(Message::Finished(
            totals.map(|(frames, bytes)| Totals { frames: Some(frames), bytes })
        ))),
        Just(Whole::Message(Message::Request)),
    ]
}

fn write(whole: &Whole) -> Vec<u8> {
    match whole {
        Whole::Message(message) => message.to_bytes(),
        Whole::State(kind, payload) => {
            let mut bytes = Header::new(*kind, payload.len()).unwrap().to_bytes().to_vec();
            bytes.extend_from_slice(payload);
            bytes
        }
    }
}

proptest! {
    #[test]
    fn what_is_written_is_read_in_chunks_of_any_size(
        frames in prop::collection::vec(whole(), 0..8),
        sizes in prop::collection::vec(1usize..64, 1..40),
    ) {
        let stream: Vec<u8> = frames.iter().flat_map(write).collect();
        let (found, decoder) = read_all(&stream, &sizes).unwrap();
        prop_assert_eq!(found, frames);
        prop_assert!(decoder.is_between_frames());
    }

    #[test]
    fn any_bytes_give_the_same_answer_in_one_chunk_and_in_many(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let at_once = read_all(&bytes, &[bytes.len().max(1)]).map(|(found, _)| found);
        prop_assert_eq!(at_once, read_all(&bytes, &[1]).map(|(found, _)| found));
    }

    #[test]
    fn a_header_that_is_read_is_written_back(bytes in any::<[u8; HEADER]>(), fix in any::<bool>()) {
        let mut bytes = bytes;
        if fix {
            bytes[4..9].copy_from_slice(&[0xAE, 0x7E, 0x20, 0x24, 1]);
            bytes[10..].copy_from_slice(&[0, 0]);
        }
        if let Ok(header) = Header::parse(&bytes) {
            prop_assert_eq!(header.to_bytes(), bytes);
        }
    }
}
