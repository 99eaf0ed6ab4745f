//! Whatever is imported parses; whatever is not has a reason.
//!
//! `cargo +nightly fuzz run import fuzz/corpus/import tests/import`

#![no_main]

use aeterna::unit::{Context, Source, import, parse};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let context =
        Context { stem: "app".into(), file: String::new(), runtime_dir: "/run".into(), pid1: false };
    for name in ["a.service", "a@b.service", "aeterna.yaml", "Procfile"] {
        let source = Source { file: name.into(), name: name.into(), text: text.into() };
        match import(&[source], None) {
            Ok(unit) => assert!(parse(&unit.text, &context).is_ok(), "{}", unit.text),
            Err(findings) => assert!(!findings.is_empty()),
        }
    }
});
