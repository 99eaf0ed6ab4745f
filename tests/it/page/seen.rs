//! Whether everybody can read what is on the page.

use super::browser::Browser;

/// Every text that is seen stands out from what is behind it (4.5:1, large ones 3:1), everything that can be used has a
/// name, and whatever is given the focus shows it. With `PAGE_AXE=axe.min.js` axe-core looks too.
pub(super) fn is_readable(browser: &mut Browser) {
    let found = browser.value(LOOK);
    assert_eq!(found, serde_json::json!([]), "{found:#}");
    let Some(axe) = std::env::var_os("PAGE_AXE") else { return };
    browser.value(&format!("{}; true", std::fs::read_to_string(axe).unwrap()));
    let found = browser.value(
        "axe.run().then(r => r.violations.map(v => v.id + ': ' + v.nodes.map(n => n.html.slice(0, 160) + ' ' + n.failureSummary).join(' | ')))",
    );
    assert_eq!(found, serde_json::json!([]), "{found:#}");
}

const LOOK: &str = r#"(() => {
  const found = [];
  const canvas = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
  const rgba = colour => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data;
    return [r, g, b, a / 255];
  };
  const over = (top, below) => top.slice(0, 3).map((c, at) => c * top[3] + below[at] * (1 - top[3]));
  const behind = node => {
    const layers = [];
    for (let at = node; at; at = at.parentElement) {
      const colour = rgba(getComputedStyle(at).backgroundColor);
      if (colour[3] > 0) layers.push(colour);
      if (colour[3] === 1) break;
    }
    return layers.reverse().reduce((below, layer) => over(layer, below), [255, 255, 255]);
  };
  const light = rgb => {
    const [r, g, b] = rgb.map(c => c / 255).map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode.parentElement, text = walker.currentNode.textContent.trim();
    if (!text || !node.checkVisibility({ checkOpacity: true, checkVisibilityCSS: true }) || node.closest('script, style, .unseen, noscript')) continue;
    if (node.closest(':disabled') || node.getClientRects().length === 0) continue;
    const style = getComputedStyle(node), ground = behind(node);
    const ink = over(rgba(style.color), ground), [a, b] = [light(ink), light(ground)].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05), size = parseFloat(style.fontSize), bold = style.fontWeight >= 700;
    if (ratio < (size >= 24 || (bold && size >= 18.66) ? 3 : 4.5)) found.push(`${ratio.toFixed(2)}:1 ${text.slice(0, 40)} (${node.className})`);
  }
  const name = node => (node.getAttribute('aria-label') || node.textContent || node.labels?.[0]?.textContent || '').trim();
  for (const node of document.querySelectorAll('button, input, summary, a, [tabindex="0"]')) {
    if (node.checkVisibility() && !name(node)) found.push('no name: ' + node.outerHTML.slice(0, 80));
  }
  const ids = [...document.querySelectorAll('[id]')].map(node => node.id);
  for (const id of ids) if (ids.indexOf(id) !== ids.lastIndexOf(id)) found.push('twice: #' + id);
  for (const live of document.querySelectorAll('[role=log], [aria-live]')) found.push('reads out too much: ' + live.outerHTML.slice(0, 80));
  return found;
})()"#;
