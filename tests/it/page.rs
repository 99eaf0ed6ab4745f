//! The live page in a real browser, against aeternad's HTTP server with a made-up daemon behind it.
//! `PAGE_SHOTS=DIR cargo test --test it page` keeps pictures of it.

mod browser;
mod canned;

use aeterna::machine::event::Command;
use aeterna::proto::status::UnitState;
use browser::Browser;
use canned::{World, event, past, status, unit};

fn browser() -> Option<Browser> {
    let browser = Browser::start();
    if browser.is_none() {
        assert!(std::env::var("CI").as_deref() != Ok("true"), "chromium is not installed");
        eprintln!("skipped: chromium is not installed");
    }
    browser
}

/// The page's own words for what went wrong in it are errors of its console.
fn listen(browser: &mut Browser) {
    let source = "window.faults = []; addEventListener('error', e => faults.push(e.message)); \
                  addEventListener('securitypolicyviolation', e => faults.push(e.violatedDirective));";
    browser.call("Page.enable", serde_json::json!({}));
    browser.call("Page.addScriptToEvaluateOnNewDocument", serde_json::json!({ "source": source }));
}

#[test]
fn the_page_shows_everything_and_follows_what_happens() {
    let Some(mut browser) = browser() else { return };
    let world = World::new(status(), None);
    past(&world);
    listen(&mut browser);
    browser.look(1400, 1000, "light");
    browser.open(&world.url());
    browser.wait("document.querySelector('#linktext').textContent === 'live'");
    browser.wait("document.querySelectorAll('#log li').length === 16");
    for (unit, words) in [
        ("chat", "soaking"),
        ("chat", "10 %"),
        ("chat", "/run/chat/admin.sock"),
        ("chat", "1,204 sessions"),
        ("chat", "410.0 MiB"),
        ("chat", "errors: open, 0.2 % of 1,204 requests"),
        ("web", "17 connections left"),
        ("web", "3580 / 4096 waiting"),
        ("mail", "The program on disk is newer"),
        ("mail", "no route to db"),
        ("worker", "the start limit was hit"),
        ("backup", "No generation lives"),
    ] {
        browser.wait(&format!(
            "[...document.querySelectorAll('article')].some(a => a.querySelector('h2').textContent === {unit:?} && \
             a.innerText.includes({words:?}))"
        ));
    }
    browser.wait("document.querySelector('[aria-label^=\"Generation 8: starting 1.4 s, soaking\"]')");
    browser.shoot("desktop-light");
    browser.look(1400, 1000, "dark");
    browser.shoot("desktop-dark");
    browser.look(390, 844, "light");
    browser.wait("document.documentElement.scrollWidth <= 390");
    browser.shoot("phone-light");
    browser.look(390, 844, "dark");
    browser.shoot("phone-dark");

    world.change(|status| status.units.push(unit("fresh", UnitState::Pending, 0.0, vec![])));
    world.event(event(0.0, "fresh", "step", "<b>not markup</b>"));
    browser.wait("document.querySelector('#log li').innerText.includes('<b>not markup</b>')");
    browser.wait("[...document.querySelectorAll('article h2')].some(h => h.textContent === 'fresh')");
    assert_eq!(browser.value("faults"), serde_json::json!([]));
}

#[test]
fn a_command_is_asked_about_first_and_works_from_the_keyboard() {
    let Some(mut browser) = browser() else { return };
    let dir = tempfile::tempdir().unwrap();
    let token = dir.path().join("token");
    std::fs::write(&token, "s3cret").unwrap();
    let world = World::new(status(), Some(&token));
    listen(&mut browser);
    browser.look(1400, 1000, "light");
    browser.open(&world.url());
    browser.wait("document.querySelector('#linktext').textContent === 'live'");
    let button = |name: &str| format!("document.querySelector('button[aria-label=\"{name}\"]')");
    assert_eq!(browser.value(&format!("{}.disabled", button("Reload chat"))), true);
    assert_eq!(browser.value(&format!("{}.disabled", button("Promote mail"))), true);

    browser.value(&format!("{}.focus()", button("Promote chat")));
    browser.press("Enter");
    browser.wait("document.querySelector('dialog').open");
    browser.shoot("dialog");
    browser.press("Escape");
    browser.wait("!document.querySelector('dialog').open");
    assert_eq!(browser.value("document.activeElement.getAttribute('aria-label')"), "Promote chat");
    assert_eq!(world.commands(), vec![]);

    browser.value(&format!("{}.focus()", button("Reload mail")));
    browser.press("Enter");
    browser.wait("document.querySelector('dialog').open && document.activeElement.id === 'why'");
    browser.call("Input.insertText", serde_json::json!({"text": "new <certificate>"}));
    browser.press("Enter");
    browser.wait("document.activeElement.id === 'token'");
    browser.wait("document.querySelector('#fault').textContent.includes('needs a token')");
    assert_eq!(world.commands(), vec![]);
    // What is said at the end is gone after some seconds: it is written down.
    browser.value(
        "window.said = []; const toast = document.querySelector('#toast'); \
         new MutationObserver(() => said.push(toast.textContent)).observe(toast, {childList: true}); true",
    );
    browser.call("Input.insertText", serde_json::json!({"text": "s3cret"}));
    browser.press("Enter");
    browser.wait("!document.querySelector('dialog').open");
    browser.wait("said.includes('Reload mail: accepted')");
    let reload = Command::Reload { force: false, remember: false, reason: "new <certificate>".into() };
    assert_eq!(world.commands(), vec![("mail".to_owned(), reload)]);
    assert_eq!(browser.value("faults"), serde_json::json!([]));
}

#[test]
fn without_script_the_page_can_be_read() {
    let Some(mut browser) = browser() else { return };
    let world = World::new(status(), None);
    browser.look(1100, 1000, "light");
    browser.scripts(false);
    browser.open(&world.url());
    let text = browser.value("document.querySelector('#plain').innerText");
    let text = text.as_str().unwrap();
    for words in [
        "chat",
        "soaking",
        "0.0.0.0:8080",
        "52311",
        "3580",
        "the start limit was hit",
        "no route to db",
        // Both generations of the soak, side by side, and what is judged.
        "7 (serving)\t8 (soaking)",
        "processor time\t5301.00 s\t1.20 s",
        "memory\t410M\t96M",
        "errors\topen\t",
        "0.2 % of 1,204 requests",
    ] {
        assert!(text.contains(words), "{words} is missing in\n{text}");
    }
    assert_eq!(browser.value("document.querySelector('#live').offsetHeight"), 0);
    browser.shoot("plain");
}
