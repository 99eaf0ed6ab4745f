//! The live page in a real browser, against aeternad's HTTP server with a made-up daemon behind it.
//! `PAGE_SHOTS=DIR cargo test --test it page` keeps pictures of it.

mod browser;
mod canned;
mod seen;

use crate::common::Env;
use crate::common::app::{APP, App, LONG_SOAK};
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
        ("chat", "asked for 10 % of new connections, got 10.2 %"),
        ("chat", "14 s of 30 s"),
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
    seen::is_readable(&mut browser);
    browser.look(1400, 1000, "light");
    seen::is_readable(&mut browser);
    browser.look(360, 844, "light");
    browser.wait("document.documentElement.scrollWidth <= 360");
    browser.shoot("phone-light");
    browser.look(360, 844, "dark");
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

/// What is said of the generation's bar in words.
fn lane(browser: &mut Browser, number: u32) -> String {
    let label = format!(
        "document.querySelector('[aria-label^=\"Generation {number}: \"]')?.getAttribute('aria-label')"
    );
    browser.wait(&format!("!!({label})"));
    browser.value(&label).as_str().unwrap().to_owned()
}

#[test]
fn a_page_that_is_opened_in_the_middle_of_a_reload_is_right() {
    let Some(mut browser) = browser() else { return };
    let mut env = Env::new();
    env.arguments(&["--http", "127.0.0.1:0"]);
    App { reload: LONG_SOAK, ..APP }.write(&env);
    env.start();
    env.wait_state("app", UnitState::Running);
    let url = format!("http://{}/", env.wait_log("http: listening on ").rsplit(' ').next().unwrap());
    // A reload that was rolled back, one that was promoted, and one that soaks: what is told again of the first two is not
    // the third one's.
    for (end, settled) in [("rollback", UnitState::Running), ("promote", UnitState::Running)] {
        env.reload_until(UnitState::Soaking);
        assert_eq!(env.ctl(&[end, "app"]).code, 0);
        env.wait_unit("app", "one generation", |unit| unit.state == settled && unit.generations.len() == 1);
    }
    env.reload_until(UnitState::Soaking);
    listen(&mut browser);
    browser.look(1400, 1000, "light");
    browser.open(&url);
    browser.wait("document.querySelector('#linktext').textContent === 'live'");
    browser.wait("document.querySelectorAll('#log li').length > 20");
    let (old, new) = (lane(&mut browser, 3), lane(&mut browser, 4));
    assert!(old.contains("serving") && !old.contains("draining") && !old.contains("rolling"), "{old}");
    assert!(new.contains("soaking") && !new.contains("rolling") && !new.contains("draining"), "{new}");
    browser.shoot("reload-in");
    // Nothing is drawn before its generation's start.
    browser.wait("[...document.querySelectorAll('.lane b')].every(b => parseFloat(b.style.left) >= 0)");
    assert_eq!(env.ctl(&["rollback", "app"]).code, 0);
    browser.wait("document.querySelector('[aria-label^=\"Generation 4: \"]')?.getAttribute('aria-label').includes('rolling back')");
    browser.shoot("rollback-after");
    browser.wait("document.querySelector('#spoken').textContent.startsWith('app: reload rolled_back')");
    env.reload_until(UnitState::Soaking);
    assert_eq!(env.ctl(&["promote", "app"]).code, 0);
    browser.wait("document.querySelector('[aria-label^=\"Generation 5: \"]')?.getAttribute('aria-label').includes('serving')");
    env.wait_unit("app", "one generation", |unit| unit.generations.len() == 1);
    browser.wait("document.querySelector('article .pill').textContent === 'running'");
    browser.shoot("reload-after");
    assert_eq!(browser.value("faults"), serde_json::json!([]));
}

#[test]
fn a_hundred_units_are_a_list_with_those_that_failed_first() {
    let Some(mut browser) = browser() else { return };
    let mut all = status();
    let calm = |number| {
        let mut one = unit(&format!("unit-{number:03}"), UnitState::Running, 500.0, vec![]);
        one.generations = vec![canned::generation(1, "serving", 4000 + number, 500.0, Some(100))];
        one.description = format!("Serves number {number}");
        one
    };
    all.units.extend((0..95).map(calm));
    let world = World::new(all, None);
    listen(&mut browser);
    browser.look(1400, 1000, "light");
    browser.open(&world.url());
    browser.wait("document.querySelector('#linktext').textContent === 'live'");
    browser.wait("document.querySelectorAll('article').length === 100");
    assert_eq!(browser.value("document.querySelector('article h2').textContent"), "worker");
    let height = browser.value("document.documentElement.scrollHeight").as_f64().unwrap();
    assert!(height < 6_500.0, "{height} pixels");
    let folded = "[...document.querySelectorAll('article.folded')].length";
    assert_eq!(browser.value(folded), 98, "only those at which something happens are unfolded");
    browser.shoot("hundred-light");
    seen::is_readable(&mut browser);
    browser.look(1400, 1000, "dark");
    seen::is_readable(&mut browser);
    browser.shoot("hundred-dark");
    browser.look(360, 800, "light");
    browser.wait("document.documentElement.scrollWidth <= 360");
    browser.shoot("hundred-phone");
    browser.look(1400, 1000, "light");
    // From the keyboard: a unit is unfolded, and the focus stays where it is while the page goes on.
    browser.value("[...document.querySelectorAll('.fold')].find(b => b.textContent === 'unit-007').focus()");
    browser.press("Enter");
    browser.wait("document.activeElement.getAttribute('aria-expanded') === 'true'");
    browser.wait("document.activeElement.closest('article').innerText.includes('pid 4007')");
    world.change(|status| {
        status.units.iter_mut().find(|one| one.name == "unit-007").unwrap().state = UnitState::Failed
    });
    browser.wait("document.querySelectorAll('article h2')[1].textContent === 'unit-007'");
    assert_eq!(browser.value("document.activeElement.textContent"), "unit-007");
    // By name and by state.
    browser.value("document.querySelector('input[type=search]').focus()");
    browser.call("Input.insertText", serde_json::json!({"text": "unit-01"}));
    browser.wait("[...document.querySelectorAll('article')].filter(a => !a.hidden).length === 10");
    browser.value("document.querySelector('input[type=search]').value = ''; [...document.querySelectorAll('#tally button')].find(b => b.textContent.endsWith('failed')).click()");
    browser.wait("[...document.querySelectorAll('article')].filter(a => !a.hidden).length === 2");
    browser.wait("document.querySelector('#tally [aria-pressed=true]').textContent === '2 failed'");
    assert_eq!(browser.value("faults"), serde_json::json!([]));
}

#[test]
fn history_log_start_and_stop_are_at_each_unit() {
    let Some(mut browser) = browser() else { return };
    let world = World::new(status(), None);
    listen(&mut browser);
    browser.look(1400, 1000, "light");
    let token = "0123456789abcdef0123456789abcdef";
    browser.open(&format!("{}#token={token}", world.url()));
    browser.wait("document.querySelector('#linktext').textContent === 'live'");
    assert_eq!(browser.value("document.title"), "web1 – aeternad");
    assert_eq!(
        browser.value("location.hash + sessionStorage.getItem('token')"),
        token,
        "it is kept and not shown"
    );
    let card = |name: &str| {
        format!(
            "[...document.querySelectorAll('article')].find(a => a.querySelector('h2').textContent === '{name}')"
        )
    };
    let open = |browser: &mut Browser, name: &str, what: &str| {
        browser.value(&format!(
            "[...{}.querySelectorAll('summary')].find(s => s.textContent === '{what}').focus()",
            card(name)
        ));
        browser.press("Enter");
    };
    open(&mut browser, "mail", "History");
    open(&mut browser, "mail", "Log");
    for words in [
        "rolled back",
        "asked for 10 %, got 10.2 % of 1,204",
        "asked for: release <1.4>",
        "listening on <smtp>",
        "no route to db",
    ] {
        browser.wait(&format!("{}.querySelector('.more-of').innerText.includes({words:?})", card("mail")));
    }
    open(&mut browser, "worker", "Log");
    browser.wait(&format!("{}.innerText.includes('Its output goes to /dev/null')", card("worker")));
    browser.shoot("history-light");
    seen::is_readable(&mut browser);
    browser.look(1400, 1000, "dark");
    seen::is_readable(&mut browser);
    browser.look(360, 800, "dark");
    browser.wait("document.documentElement.scrollWidth <= 360");
    browser.shoot("history-phone-dark");
    for (verb, unit) in [("Start", "worker"), ("Stop", "mail")] {
        browser.value(&format!("document.querySelector('button[aria-label=\"{verb} {unit}\"]').focus()"));
        browser.press("Enter");
        browser.wait("document.querySelector('dialog').open");
        browser.press("Tab");
        browser.press("Enter");
        browser.wait("!document.querySelector('dialog').open");
    }
    let asked =
        vec![("worker".to_owned(), Command::Start), ("mail".to_owned(), Command::Stop { close: false })];
    assert_eq!(world.commands(), asked);
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
