//! SRP's decoder: any bytes, in chunks of any sizes, mean the same as in one piece, and whatever is a message is
//! written and read back as itself. The first byte says how long the chunks are.
#![no_main]

use aeterna::proto::srp::{Decoder, Message, Piece};

/// Everything that a stream says: messages, and state as kind and number of bytes.
fn read(bytes: &[u8], size: usize) -> (Vec<String>, bool) {
    let mut decoder = Decoder::new();
    let mut found = Vec::new();
    let mut state = None;
    for mut chunk in bytes.chunks(size) {
        loop {
            match decoder.next(&mut chunk) {
                Ok(None) => break,
                Ok(Some(Piece::State(header))) => state = Some((header, 0)),
                Ok(Some(Piece::Body(body))) => {
                    let (header, count) = state.as_mut().expect("a payload has a header");
                    *count += body.len();
                    assert!(*count <= header.payload as usize);
                }
                Ok(Some(Piece::End)) => {
                    let (header, count) = state.take().expect("an end has a beginning");
                    assert_eq!(count, header.payload as usize);
                    found.push(format!("{header:?}"));
                }
                Ok(Some(Piece::Message(message))) => {
                    found.push(format!("{message:?}"));
                    round_trip(&message);
                }
                Err(error) => {
                    found.push(error.to_string());
                    return (found, false);
                }
            }
        }
    }
    (found, true)
}

fn round_trip(message: &Message) {
    let bytes = message.to_bytes();
    let read = Decoder::new().next(&mut &bytes[..]);
    match (message, read) {
        // A long complaint is cut off.
        (Message::Error(_), Ok(Some(Piece::Message(Message::Error(_))))) => {}
        (_, read) => assert_eq!(read, Ok(Some(Piece::Message(message.clone())))),
    }
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    if let [size, bytes @ ..] = data {
        assert_eq!(read(bytes, usize::from(*size).max(1)), read(bytes, bytes.len().max(1)));
    }
});
