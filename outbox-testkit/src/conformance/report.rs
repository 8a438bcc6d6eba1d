//! What a run of the suite found, as data, as JSON, and as the page `docs/conformance.md`.

use std::any::Any;
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::{fs, io};

use serde_json::{Value, json};

use super::{Capability, PROPERTIES, Property};

/// How the check of a property ended that did not panic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checked {
    /// The storage keeps it.
    Kept,
    /// It was not asked for: the subject declines what it needs.
    Declined(Capability),
}

/// What a run found about one property.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// The storage keeps it.
    Kept,
    /// It was not asked for: the subject declines this capability.
    Declined(String),
    /// The storage breaks it, with the panic that says how.
    Broken(String),
}

/// What a run of the suite found.
///
/// ```
/// use outbox_testkit::SimRuntime;
/// use outbox_testkit::conformance::{MemorySubject, Report};
///
/// let report = Report::run("memory", "simulated", |property| {
///     SimRuntime::new(1)
///         .block_on(async { property.check_unless_declined(&MemorySubject::new()).await })
/// });
/// let report = report.by("cargo run --example report");
/// assert_eq!(report.broken().count(), 0);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The name of the storage, also of its file in `docs/conformance/`.
    pub storage: String,
    /// The runtime it ran on.
    pub runtime: String,
    /// The command that runs it again, for the page; empty if nobody said.
    pub command: String,
    /// The id of each property with what was found, in the order of the suite.
    pub findings: Vec<(String, Finding)>,
}

impl Report {
    /// Runs every property. `check` checks one, on a new subject, and panics if it is broken, as
    /// [`Property::check_unless_declined`] does.
    pub fn run(storage: &str, runtime: &str, check: impl Fn(&'static Property) -> Checked) -> Self {
        let find = |property: &'static Property| {
            let finding = match catch_unwind(AssertUnwindSafe(|| check(property))) {
                Ok(Checked::Kept) => Finding::Kept,
                Ok(Checked::Declined(needed)) => Finding::Declined(needed.to_string()),
                Err(panic) => Finding::Broken(panic_text(&*panic)),
            };
            (property.id.to_owned(), finding)
        };
        Self {
            storage: storage.to_owned(),
            runtime: runtime.to_owned(),
            command: String::new(),
            findings: PROPERTIES.iter().map(find).collect(),
        }
    }

    /// Says which command runs it again.
    #[must_use]
    pub fn by(mut self, command: &str) -> Self {
        command.clone_into(&mut self.command);
        self
    }

    /// The broken properties, with how each is broken.
    pub fn broken(&self) -> impl Iterator<Item = (&str, &str)> {
        self.findings
            .iter()
            .filter_map(|(id, finding)| match finding {
                Finding::Broken(how) => Some((&**id, &**how)),
                Finding::Kept | Finding::Declined(_) => None,
            })
    }

    /// What was found about the property of this id.
    #[must_use]
    pub fn finding(&self, id: &str) -> Option<&Finding> {
        let mut findings = self.findings.iter();
        findings.find_map(|(found, finding)| (found == id).then_some(finding))
    }

    /// The report as JSON, with the same text for the same findings.
    #[must_use]
    pub fn to_json(&self) -> String {
        // Names in alphabetical order, so that the text is the same whether or not a dependency turns
        // on serde_json's `preserve_order`.
        let properties = self.findings.iter().map(|(id, finding)| {
            let rule = Property::find(id).map_or_else(String::new, rule);
            match finding {
                Finding::Kept => json!({"finding": "kept", "id": id, "rule": rule}),
                Finding::Declined(capability) => {
                    json!({"finding": "declined", "id": id, "needs": capability, "rule": rule})
                }
                Finding::Broken(how) => {
                    json!({"finding": "broken", "how": how, "id": id, "rule": rule})
                }
            }
        });
        let report = json!({
            "command": self.command,
            "properties": properties.collect::<Vec<_>>(),
            "runtime": self.runtime,
            "storage": self.storage,
        });
        format!("{report:#}\n")
    }

    /// Reads what [`to_json`](Self::to_json) wrote; `None` if it is something else.
    #[must_use]
    pub fn from_json(text: &str) -> Option<Self> {
        let report: Value = serde_json::from_str(text).ok()?;
        let text = |value: &Value, name: &str| Some(value.get(name)?.as_str()?.to_owned());
        let finding = |property: &Value| {
            let finding = match &*text(property, "finding")? {
                "kept" => Finding::Kept,
                "declined" => Finding::Declined(text(property, "needs")?),
                "broken" => Finding::Broken(text(property, "how")?),
                _ => return None,
            };
            Some((text(property, "id")?, finding))
        };
        let properties = report.get("properties")?.as_array()?;
        Some(Self {
            storage: text(&report, "storage")?,
            runtime: text(&report, "runtime")?,
            command: text(&report, "command")?,
            findings: properties.iter().map(finding).collect::<Option<_>>()?,
        })
    }

    /// Writes the report to `conformance/<storage>.json` below `docs`, and the page
    /// `conformance.md` there of all such files.
    ///
    /// # Errors
    /// Files that cannot be read or written, and one that is no report.
    pub fn publish(&self, docs: &Path) -> io::Result<()> {
        fs::create_dir_all(folder_in(docs))?;
        fs::write(self.file_in(docs), self.to_json())?;
        fs::write(page_in(docs), Self::page(&Self::published(docs)?))
    }

    /// Whether [`publish`](Self::publish) would change nothing: for a test that keeps what is
    /// published from going stale.
    ///
    /// # Errors
    /// Files that cannot be read, and one of another storage that is no report. What is not there
    /// is no error.
    pub fn is_published(&self, docs: &Path) -> io::Result<bool> {
        let holds = |file: PathBuf, text: &str| match fs::read_to_string(file) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            found => found.map(|found| found == text),
        };
        // In this order: there may be no folder, or no report in the file of this one.
        Ok(holds(self.file_in(docs), &self.to_json())?
            && holds(page_in(docs), &Self::page(&Self::published(docs)?))?)
    }

    fn file_in(&self, docs: &Path) -> PathBuf {
        folder_in(docs).join(format!("{}.json", self.storage))
    }

    /// The reports in `conformance/` below `docs`, by name of the storage.
    ///
    /// # Errors
    /// Files that cannot be read, and one that is no report.
    pub fn published(docs: &Path) -> io::Result<Vec<Self>> {
        let mut reports = Vec::new();
        for entry in fs::read_dir(folder_in(docs))? {
            let path = entry?.path();
            let report = Self::from_json(&fs::read_to_string(&path)?).ok_or_else(|| {
                let problem = format!("{} is no report", path.display());
                io::Error::new(io::ErrorKind::InvalidData, problem)
            })?;
            reports.push(report);
        }
        reports.sort_by(|former, later| former.storage.cmp(&later.storage));
        Ok(reports)
    }

    /// The page of these reports, as Markdown.
    #[must_use]
    pub fn page(reports: &[Self]) -> String {
        let commands = reports.iter().map(|report| &*report.command);
        let commands: BTreeSet<_> = commands.filter(|command| !command.is_empty()).collect();
        let mut page = HEAD.to_owned();
        for command in commands {
            // Writing to a string does not fail.
            let _ = writeln!(page, "$ {command}");
        }
        page.push_str("```\n\n");
        page.push_str("| storage | runtime | kept | declined | broken |\n|---|---|--:|--:|--:|\n");
        for report in reports {
            let count = |is: fn(&Finding) -> bool| {
                let findings = report.findings.iter();
                findings.filter(|(_, finding)| is(finding)).count()
            };
            row(
                &mut page,
                [
                    report.storage.clone(),
                    report.runtime.clone(),
                    count(|finding| matches!(finding, Finding::Kept)).to_string(),
                    count(|finding| matches!(finding, Finding::Declined(_))).to_string(),
                    count(|finding| matches!(finding, Finding::Broken(_))).to_string(),
                ],
            );
        }
        page.push('\n');
        let storages = reports.iter().map(|report| report.storage.clone());
        row(
            &mut page,
            ["id".to_owned(), "rule".to_owned()]
                .into_iter()
                .chain(storages),
        );
        row(&mut page, (0..reports.len() + 2).map(|_| "---".to_owned()));
        for property in PROPERTIES {
            let found = reports
                .iter()
                .map(|report| cell(report.finding(property.id)));
            let about = [property.id.to_owned(), rule(property)];
            row(&mut page, about.into_iter().chain(found));
        }
        page
    }
}

const HEAD: &str = "# Conformance

What the suite in `outbox-testkit/src/conformance/` found about each storage. A property is *kept*,
or *declined* because the storage does not offer what it needs, or **broken**. The ids are those of
the documentation of `Storage`, in `outbox-core/src/storage.rs`.

This page is written by the runs themselves:

```console
";

fn folder_in(docs: &Path) -> PathBuf {
    docs.join("conformance")
}

fn page_in(docs: &Path) -> PathBuf {
    docs.join("conformance.md")
}

fn row(page: &mut String, cells: impl IntoIterator<Item = String>) {
    for cell in cells {
        let _ = write!(page, "| {cell} ");
    }
    page.push_str("|\n");
}

fn cell(finding: Option<&Finding>) -> String {
    match finding {
        Some(Finding::Kept) => "kept".to_owned(),
        Some(Finding::Declined(capability)) => format!("*declined*: {capability}"),
        Some(Finding::Broken(_)) => "**broken**".to_owned(),
        None => "not run".to_owned(),
    }
}

/// The name of a property as a sentence.
fn rule(property: &'static Property) -> String {
    property.name.replace('_', " ")
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(ToString::to_string);
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
    text.unwrap_or_else(|| "a panic without a text".to_owned())
}
