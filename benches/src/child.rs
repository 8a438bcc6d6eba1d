//! Processes of this program's own: a worker that is measured alone.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{ChildStdout, Command, Stdio};

use crate::Error;

/// A process of this program, ended with this value. It answers in lines.
pub(crate) struct Child {
    process: std::process::Child,
    answers: BufReader<ChildStdout>,
}

impl Child {
    /// Starts this program again with other arguments.
    pub(crate) fn start(arguments: &[&str]) -> Result<Self, Error> {
        let mut process = Command::new(std::env::current_exe()?)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let answers = process.stdout.take().ok_or("a process has no output")?;
        Ok(Self {
            process,
            answers: BufReader::new(answers),
        })
    }

    /// Lets a process go on that waits for a line.
    pub(crate) fn go(&mut self) -> Result<(), Error> {
        let input = self.process.stdin.as_mut();
        Ok(input.ok_or("a process has no input")?.write_all(b"go\n")?)
    }

    /// Its next line. Blocks until there is one; that the process has ended is an error.
    pub(crate) fn line(&mut self) -> Result<String, Error> {
        let mut line = String::new();
        if self.answers.read_line(&mut line)? == 0 {
            return Err("a worker process has failed".into());
        }
        Ok(line.trim_end().to_owned())
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // It is gone already if all went well.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
