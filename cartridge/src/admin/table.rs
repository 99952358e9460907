//! Tables: aligned in a terminal, tab-separated when piped.

use std::io::IsTerminal;

/// Rows under a head. Columns whose name begins with `#` are numbers and stand right.
#[derive(Debug, Clone)]
pub struct Table {
    head: Vec<&'static str>,
    rows: Vec<Vec<String>>,
}

/// Wider cells are cut in a terminal.
const WIDEST: usize = 72;

impl Table {
    /// With these columns.
    pub fn new(head: &[&'static str]) -> Self {
        Table {
            head: head.to_vec(),
            rows: Vec::new(),
        }
    }

    /// Adds a row.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// Its lines, for where standard output goes.
    pub fn lines(&self) -> Vec<String> {
        match std::io::stdout().is_terminal() {
            true => self.aligned(),
            false => self.plain(),
        }
    }

    fn plain(&self) -> Vec<String> {
        let head = self
            .head
            .iter()
            .map(|name| name.trim_start_matches('#').to_owned());
        let clean = |cell: &String| cell.replace(['\t', '\n'], " ");
        let rows = self.rows.iter().map(|row| row.iter().map(clean).collect());
        let all = std::iter::once(head.collect::<Vec<_>>()).chain(rows);
        all.map(|cells| cells.join("\t")).collect()
    }

    fn aligned(&self) -> Vec<String> {
        let cut = |cell: &str| match cell.chars().count() > WIDEST {
            true => format!("{}…", cell.chars().take(WIDEST - 1).collect::<String>()),
            false => cell.to_owned(),
        };
        let mut all: Vec<Vec<String>> = vec![
            self.head
                .iter()
                .map(|name| name.trim_start_matches('#').to_owned())
                .collect(),
        ];
        all.extend(
            self.rows
                .iter()
                .map(|row| row.iter().map(|c| cut(c)).collect()),
        );
        let width = |column: usize| {
            let cells = all.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.head.len()).map(width).collect();
        all.iter()
            .map(|row| {
                let cells = row.iter().zip(&widths).zip(&self.head);
                let cells = cells.map(|((cell, width), name)| {
                    let width = *width;
                    match name.starts_with('#') {
                        true => format!("{cell:>width$}"),
                        false => format!("{cell:<width$}"),
                    }
                });
                cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_for_people_and_separated_for_programs() {
        let mut table = Table::new(&["what", "#n"]);
        table.row(["a\tb".to_owned(), "5".to_owned()]);
        table.row(["long one".to_owned(), "123".to_owned()]);
        assert_eq!(
            table.aligned(),
            ["what        n", "a\tb         5", "long one  123"]
        );
        assert_eq!(table.plain(), ["what\tn", "a b\t5", "long one\t123"]);
    }
}
