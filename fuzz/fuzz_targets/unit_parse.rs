//! Any text is a unit that prints as itself, or has errors.
//!
//! `cargo +nightly fuzz run unit_parse fuzz/corpus/unit_parse tests/unit/good tests/unit/bad`

#![no_main]

use aeterna::unit::{Context, parse, print};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let context =
        Context { stem: "app".into(), file: "app.toml".into(), runtime_dir: "/run/aeterna".into(), pid1: false };
    match parse(text, &context) {
        Ok(parsed) => {
            let shown = print(&parsed.unit);
            let again = parse(&shown, &context).expect("what is printed can be read");
            assert_eq!(again.unit, parsed.unit, "{shown}");
        }
        Err(errors) => assert!(!errors.is_empty() && errors.iter().all(|error| error.line > 0)),
    }
});
