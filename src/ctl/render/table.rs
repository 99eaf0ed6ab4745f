//! Columns that stand under each other, with or without colour.

use super::{Look, Tone, clean, paint};

/// Where a cell's text stands in its column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Left,
    Right,
}

/// One cell.
#[derive(Debug, Clone)]
pub(super) struct Cell {
    text: String,
    tone: Tone,
    side: Side,
}

/// A plain cell.
pub(super) fn cell(text: impl AsRef<str>) -> Cell {
    Cell { text: clean(text.as_ref()), tone: Tone::Plain, side: Side::Left }
}

impl Cell {
    pub(super) fn tone(self, tone: Tone) -> Cell {
        Cell { tone, ..self }
    }

    /// For numbers.
    pub(super) fn right(self) -> Cell {
        Cell { side: Side::Right, ..self }
    }
}

/// Rows of cells, and lines between them that keep to no column.
#[derive(Debug, Default)]
pub(super) struct Table {
    rows: Vec<Row>,
}

#[derive(Debug)]
enum Row {
    Cells(Vec<Cell>),
    Note(String),
}

impl Table {
    /// A table with a head.
    pub(super) fn new(head: &[&str]) -> Table {
        let mut table = Table::default();
        table.row(head.iter().map(|name| cell(name).tone(Tone::Strong)).collect());
        table
    }

    pub(super) fn row(&mut self, cells: Vec<Cell>) {
        self.rows.push(Row::Cells(cells));
    }

    /// A line below the last row, indented by two.
    pub(super) fn note(&mut self, text: &str) {
        self.rows.push(Row::Note(clean(text)));
    }

    /// The table's lines, each after `indent` spaces, cut at the terminal's width.
    pub(super) fn render(&self, look: Look, indent: usize) -> String {
        let widths = self.widths();
        let mut text = String::new();
        for row in &self.rows {
            let line = match row {
                Row::Cells(cells) => line(look, cells, &widths, indent),
                Row::Note(note) => format!("{:indent$}  {}", "", paint(look, Tone::Faint, note)),
            };
            text.push_str(&line);
            text.push('\n');
        }
        text
    }

    /// The table's lines as [`Table::render`] makes them, where the first column makes room for the others: a name that is
    /// cut says less than a state that is not there.
    pub(super) fn render_with_short_names(&mut self, look: Look) -> String {
        let over = |widths: &[usize], width: usize| {
            (widths.iter().map(|width| width + 2).sum::<usize>()).saturating_sub(width + 2)
        };
        let widths = self.widths();
        if let (Some(width), Some(first)) = (look.width, widths.first()) {
            let room = first.saturating_sub(over(&widths, width)).max(SHORTEST_NAME);
            for row in &mut self.rows {
                if let Row::Cells(cells) = row
                    && let Some(name) = cells.first_mut()
                {
                    name.text = middle_cut(&name.text, room);
                }
            }
        }
        self.render(look, 0)
    }

    /// Whether no cell has to be cut.
    pub(super) fn fits(&self, look: Look) -> bool {
        let whole: usize = self.widths().iter().map(|width| width + 2).sum();
        look.width.is_none_or(|width| whole <= width + 2)
    }

    /// The width of each column: its longest cell's.
    fn widths(&self) -> Vec<usize> {
        let mut widths = Vec::new();
        for row in &self.rows {
            let Row::Cells(cells) = row else { continue };
            widths.resize(widths.len().max(cells.len()), 0);
            for (width, cell) in widths.iter_mut().zip(cells) {
                *width = (*width).max(cell.text.chars().count());
            }
        }
        widths
    }
}

/// One row: cells two spaces apart, nothing after the last text, no longer than the terminal is wide.
fn line(look: Look, cells: &[Cell], widths: &[usize], indent: usize) -> String {
    let mut line = " ".repeat(indent);
    let mut used = indent;
    let mut pending = 0;
    for (cell, width) in cells.iter().zip(widths) {
        let missing = width - cell.text.chars().count();
        let (before, after) = match cell.side {
            Side::Left => (0, missing),
            Side::Right => (missing, 0),
        };
        if cell.text.is_empty() {
            pending += width + 2;
            continue;
        }
        let gap = pending + before;
        let text = fitting(&cell.text, look.width.map(|width| width.saturating_sub(used + gap)));
        line.extend(std::iter::repeat_n(' ', gap));
        line.push_str(&paint(look, cell.tone, &text));
        used += gap + text.chars().count();
        pending = after + 2;
    }
    line.trim_end_matches(' ').to_string()
}

/// The least that is left of a name, characters.
const SHORTEST_NAME: usize = 6;

/// `text` without its middle if there is no room for all of it: names mostly differ at their ends.
fn middle_cut(text: &str, room: usize) -> String {
    let all = text.chars().count();
    if all <= room {
        return text.to_owned();
    }
    let end = room.saturating_sub(1) / 2;
    let start: String = text.chars().take(room.saturating_sub(1) - end).collect();
    start + "…" + &text.chars().skip(all - end).collect::<String>()
}

/// `text`, cut with an ellipsis if there is no room for all of it.
fn fitting(text: &str, room: Option<usize>) -> String {
    match room {
        Some(room) if text.chars().count() > room => {
            let mut short: String = text.chars().take(room.saturating_sub(1)).collect();
            if room > 0 {
                short.push('…');
            }
            short
        }
        Some(_) | None => text.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Look = Look { colour: false, width: None };

    fn table() -> Table {
        let mut table = Table::new(&["NAME", "N", "LAST"]);
        table.row(vec![cell("a").tone(Tone::Good), cell("1").right(), cell("x")]);
        table.row(vec![cell("longer"), cell("1000").right(), cell("")]);
        table.note("why: a\tb");
        table.row(vec![cell(""), cell(""), cell("wide text")]);
        table
    }

    #[test]
    fn columns_stand_under_each_other() {
        assert_eq!(
            table().render(PLAIN, 0),
            "NAME    N     LAST\na          1  x\nlonger  1000\n  why: a\u{fffd}b\n              wide text\n"
        );
    }

    #[test]
    fn colour_does_not_move_anything() {
        let coloured = table().render(Look { colour: true, ..PLAIN }, 1);
        assert!(coloured.contains("\x1b[32ma\x1b[0m          1  x"));
        let mut plain = coloured;
        for code in ["\x1b[0m", "\x1b[1m", "\x1b[2m", "\x1b[32m"] {
            plain = plain.replace(code, "");
        }
        assert_eq!(plain, table().render(PLAIN, 1));
    }

    #[test]
    fn a_line_is_no_longer_than_the_terminal_is_wide() {
        let narrow = table().render(Look { width: Some(20), ..PLAIN }, 0);
        assert!(narrow.ends_with("\n              wide …\n"), "{narrow}");
        for width in 0..20 {
            table().render(Look { width: Some(width), ..PLAIN }, 3);
        }
    }
}
