//! Columns of text.
//!
//! Invariant: a cell holds no control character and every row has as many cells as the heading.

use super::text;

/// Longest cell, in characters.
const CELL_CHARS: usize = 120;

/// Rows below a heading, aligned.
#[derive(Debug)]
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with this heading.
    pub(crate) fn new(heading: &[&str]) -> Self {
        Self { rows: vec![heading.iter().map(|cell| (*cell).to_owned()).collect()] }
    }

    /// Adds a row.
    pub(crate) fn row(&mut self, cells: &[&str]) {
        assert_eq!(cells.len(), self.rows[0].len(), "a row has a cell for each heading");
        self.rows.push(cells.iter().map(|cell| text::cut(cell, CELL_CHARS)).collect());
    }

    /// The lines, heading first.
    pub(crate) fn lines(&self) -> Vec<String> {
        let columns = self.rows[0].len();
        let widths: Vec<usize> = (0..columns)
            .map(|column| self.rows.iter().map(|row| width(&row[column])).max().unwrap_or_default())
            .collect();
        self.rows.iter().map(|row| aligned(row, &widths)).collect()
    }
}

fn aligned(row: &[String], widths: &[usize]) -> String {
    let mut line = String::new();
    for (cell, most) in row.iter().zip(widths) {
        line.push_str(cell);
        line.extend(std::iter::repeat_n(' ', most - width(cell) + 2));
    }
    line.truncate(line.trim_end().len());
    line
}

/// Columns that a cell takes: ids, names, states and paths are nearly always one column a character.
fn width(text: &str) -> usize {
    text.chars().count()
}

#[cfg(test)]
mod tests {
    use super::Table;

    #[test]
    fn columns_line_up_and_cells_are_harmless() {
        let mut table = Table::new(&["NAME", "STATE"]);
        table.row(&["a", "idle"]);
        table.row(&["longer\u{1b}", ""]);
        assert_eq!(table.lines(), ["NAME          STATE", "a             idle", "longer\\u{1b}"]);
    }
}
