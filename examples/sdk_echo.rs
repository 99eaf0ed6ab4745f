//! Prints the state that it gets, and gives the same when it is asked.

use aeterna::sdk::{self, Frame, Keeper, Kind, State};
use std::io::{self, Read, Write};

struct Echo {
    frames: Vec<Frame>,
}

fn show(word: &str, frames: &[Frame]) {
    let mut line = word.to_string();
    for frame in frames {
        let kind = match frame.kind {
            Kind::Json => 2,
            Kind::Protobuf => 3,
            Kind::Bytes => 4,
            Kind::Descriptors => 5,
        };
        let hex: String = frame.payload.iter().map(|byte| format!("{byte:02x}")).collect();
        line.push_str(&format!(" {kind:02x}:{hex}:{}", frame.descriptors.len()));
    }
    let _ = writeln!(io::stdout(), "{line}");
}

fn copy(frame: &Frame) -> Frame {
    let descriptors = frame.descriptors.iter().filter_map(|fd| fd.try_clone().ok()).collect();
    Frame { kind: frame.kind, payload: frame.payload.clone(), descriptors }
}

impl Keeper for Echo {
    fn save(&mut self) -> Vec<Frame> {
        assert!(self.frames.first().is_none_or(|frame| frame.payload != b"lose me"), "not this one");
        self.frames.iter().map(copy).collect()
    }

    fn resume(&mut self, state: Option<Vec<Frame>>) {
        show("resumed", &state.unwrap_or_default());
    }

    fn committed(&mut self) {
        show("committed", &[]);
        std::process::exit(0);
    }
}

fn main() -> io::Result<()> {
    let mut state = State::connect();
    let frames = state.load(|frames| {
        assert_ne!(frames[0].payload, b"choke on me", "not this one");
        if frames[0].payload == b"refuse me" { Err("not this one") } else { Ok(frames) }
    });
    let echo = Echo { frames: frames.unwrap_or_default() };
    show("loaded", &echo.frames);
    sdk::ready()?;
    sdk::status("loaded")?;
    state.keep(echo);
    io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}
