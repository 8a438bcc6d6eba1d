//! The gate: what a message may cost the server, from a file that is checked in. Counts, and never
//! times: they are the same on any machine, but for what batches and full pages add by chance.

use std::path::Path;

use serde_json::Value;

use crate::Error;

/// Compares results with the limits of the file, which is `workload` → counter → `most`. The error
/// names every counter that is above its limit, that was not measured, or whose workload did not run.
pub(crate) fn check(file: &Path, results: &[Value]) -> Result<(), Error> {
    let text =
        std::fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))?;
    let limits: Value =
        serde_json::from_str(&text).map_err(|error| format!("{}: {error}", file.display()))?;
    let exceeded = exceeded(&limits, results)?;
    if exceeded.is_empty() {
        return Ok(());
    }
    let problem = format!(
        "a message costs more than {} allows:\n  {}",
        file.display(),
        exceeded.join("\n  ")
    );
    Err(problem.into())
}

fn exceeded(limits: &Value, results: &[Value]) -> Result<Vec<String>, Error> {
    let mut exceeded = Vec::new();
    for (workload, counters) in limits.as_object().ok_or("the baseline is no object")? {
        let result = results.iter().find(|one| one["workload"] == **workload);
        let counters = counters.as_object().ok_or("a workload is no object")?;
        for (counter, limit) in counters {
            let most = limit["most"].as_f64().ok_or("a limit has no `most`")?;
            let measured = result.and_then(|one| one["ours_per_message"][counter].as_f64());
            match measured {
                Some(measured) if measured <= most => {}
                Some(measured) => exceeded.push(format!(
                    "{workload}: {measured:.4} {counter} for each message, {most} at most"
                )),
                None => exceeded.push(format!("{workload}: {counter} was not measured")),
            }
        }
    }
    Ok(exceeded)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn found(results: Value) -> Vec<String> {
        let limits = json!({ "drain": { "buffers": { "measured": 18.5, "most": 20 } } });
        let results = results.as_array().expect("a list").clone();
        exceeded(&limits, &results).expect("the limits can be read")
    }

    #[test]
    fn what_costs_more_or_was_not_measured_is_named() {
        let of = |buffers: Value| json!([{ "workload": "drain", "ours_per_message": { "buffers": buffers } }]);
        assert!(found(of(json!(20.0))).is_empty());
        let [problem] = &found(of(json!(20.1)))[..] else {
            panic!("one counter is too high")
        };
        assert_eq!(
            problem,
            "drain: 20.1000 buffers for each message, 20 at most"
        );
        for unknown in [of(Value::Null), json!([])] {
            assert_eq!(found(unknown), ["drain: buffers was not measured"]);
        }
    }

    #[test]
    fn the_checked_in_limits_can_be_read_and_leave_some_room() {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("baseline.json");
        let text = std::fs::read_to_string(file).expect("it is checked in");
        let limits: Value = serde_json::from_str(&text).expect("it is JSON");
        let unmeasured = exceeded(&limits, &[]).expect("each counter has a limit");
        assert!(unmeasured.len() >= 12, "{unmeasured:?}");
        for counters in limits.as_object().expect("an object").values() {
            for limit in counters.as_object().expect("an object").values() {
                let [measured, most] = ["measured", "most"].map(|name| limit[name].as_f64());
                assert!(measured.is_some() && measured <= most, "{limit}");
            }
        }
    }
}
