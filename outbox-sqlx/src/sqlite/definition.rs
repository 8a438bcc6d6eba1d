//! What the text of a "create" statement says that SQLite's catalogue does not: the CHECKs of a
//! table, and the condition of an index.

/// A statement without its comments.
pub(super) struct Definition {
    text: String,
    /// The same in lower case, and with blanks for what is quoted: what to search.
    code: String,
}

impl Definition {
    pub(super) fn new(statement: &str) -> Self {
        let mut text = Vec::new();
        let mut code = Vec::new();
        let mut rest = statement.as_bytes();
        while let [first, ..] = rest {
            let (length, kind) = piece(rest, *first);
            let (piece, later) = rest.split_at(length);
            rest = later;
            match kind {
                Piece::Comment => {
                    text.push(b' ');
                    code.push(b' ');
                }
                Piece::Quoted => {
                    text.extend(piece);
                    code.extend(piece.iter().map(|_| b' '));
                }
                Piece::Code => {
                    text.extend(piece);
                    code.extend(piece.iter().map(u8::to_ascii_lowercase));
                }
            }
        }
        Self {
            text: String::from_utf8_lossy(&text).into_owned(),
            code: String::from_utf8_lossy(&code).into_owned(),
        }
    }

    /// Whether it has this word.
    pub(super) fn says(&self, word: &str) -> bool {
        self.words(word).next().is_some()
    }

    /// The condition of a partial index.
    pub(super) fn condition(&self) -> Option<String> {
        let after = self.words("where").next()?;
        Some(self.text.get(after..)?.trim().to_owned())
    }

    /// The conditions of all CHECKs.
    pub(super) fn checks(&self) -> Vec<String> {
        let parentheses = self.words("check").filter_map(|after| {
            let rest = self.code.get(after..)?;
            let open = after + rest.find(|c: char| !c.is_whitespace())?;
            let inside = self.code.get(open..)?.strip_prefix('(')?;
            let length = closing(inside)?;
            self.text.get(open + 1..open + 1 + length)
        });
        parentheses.map(|inside| inside.trim().to_owned()).collect()
    }

    /// The places after each occurrence of a word.
    fn words(&self, word: &str) -> impl Iterator<Item = usize> {
        let part_of_word = |c: char| c == '_' || c.is_alphanumeric();
        self.code
            .match_indices(word)
            .filter_map(move |(at, found)| {
                let after = at + found.len();
                let before = self.code.get(..at)?.ends_with(part_of_word);
                let goes_on = self.code.get(after..)?.starts_with(part_of_word);
                (!before && !goes_on).then_some(after)
            })
    }
}

enum Piece {
    Comment,
    Quoted,
    Code,
}

/// How long the next piece is, and what it is.
fn piece(rest: &[u8], first: u8) -> (usize, Piece) {
    let until = |end: &[u8], from: usize| {
        let found = rest.get(from..).and_then(|rest| {
            let mut windows = rest.windows(end.len());
            windows.position(|window| window == end)
        });
        found.map_or(rest.len(), |at| from + at + end.len())
    };
    match first {
        b'-' if rest.starts_with(b"--") => (until(b"\n", 2), Piece::Comment),
        b'/' if rest.starts_with(b"/*") => (until(b"*/", 2), Piece::Comment),
        // A doubled quote is one piece after the other.
        b'\'' | b'"' | b'`' => (until(&[first], 1), Piece::Quoted),
        b'[' => (until(b"]", 1), Piece::Quoted),
        _ => (1, Piece::Code),
    }
}

/// Where the parenthesis closes that was opened before.
fn closing(inside: &str) -> Option<usize> {
    let mut open = 1_usize;
    inside.char_indices().find_map(|(at, c)| {
        match c {
            '(' => open += 1,
            ')' => open -= 1,
            _ => {}
        }
        (open == 0).then_some(at)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checks_are_found_whole_and_nothing_else_is() {
        let definition = Definition::new(
            "create table t (
                recheck text default 'check (a)', -- check (comment)
                \"check\" text /* check (other) */ check(length(recheck) = ')'),
                constraint my_check CHECK ( (a is null) = (b is null) )
            ) strict",
        );
        assert_eq!(
            definition.checks(),
            ["length(recheck) = ')'", "(a is null) = (b is null)"]
        );
    }

    #[test]
    fn the_condition_of_an_index_follows_its_where() {
        let condition = |text| Definition::new(text).condition();
        assert_eq!(
            condition("create index i on t (a, \"where\")\n    WHERE a is not null "),
            Some("a is not null".to_owned())
        );
        assert_eq!(condition("create index elsewhere on t (a)"), None);
    }

    #[test]
    fn words_are_whole_and_outside_of_quotes_and_comments() {
        let says = |text| Definition::new(text).says("autoincrement");
        assert!(says(
            "create table t (id integer primary key AUTOINCREMENT)"
        ));
        assert!(!says("create table t (id integer default 'autoincrement')"));
        assert!(!says(
            "create table autoincrements (id integer -- autoincrement"
        ));
    }

    #[test]
    fn what_does_not_end_does_not_matter() {
        for text in [
            "check (a",
            "check",
            "'",
            "\"a",
            "[",
            "/*",
            "--",
            "check ((a)",
            "ä check (ä)",
        ] {
            assert!(Definition::new(text).checks().len() <= 1, "{text}");
        }
    }
}
