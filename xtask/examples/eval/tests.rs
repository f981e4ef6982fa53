//! The goals against ends that meet and miss them, and the whole evaluation against models that need no weights.

use std::collections::VecDeque;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use testkit::{Backend, Daemon, DaemonBuilder, ModelServer, Script, SeenRequest, Turn};

use crate::args::Source;
use crate::check::{End, prove, shortcomings};
use crate::folder::Folder;
use crate::goal::{Goal, Kind, Subject};
use crate::page::{self, Page};
use crate::results::{Results, line};
use crate::trial::{Bench, Trial};

/// Goals that the issue of this evaluation asks for.
const GOALS: usize = 20;
/// A limit that no run here comes near.
const SECONDS: u64 = 60;
/// Stands for the working folder in a scripted call.
const FOLDER: &str = "{folder}";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in a checkout").to_owned()
}

fn goals() -> Vec<Goal> {
    Goal::all(&root()).unwrap()
}

fn judged(goal: &Goal, after: &Folder, answer: &str, children: u64) -> Vec<String> {
    shortcomings(goal, &End { after, answer, children })
}

#[test]
fn there_are_twenty_goals_of_every_kind() {
    let goals = goals();
    assert_eq!(goals.len(), GOALS);
    let mut kinds: Vec<Kind> = goals.iter().map(|goal| goal.kind).collect();
    kinds.dedup();
    assert_eq!(kinds.len(), 10, "{kinds:?}");
}

#[test]
fn each_goal_is_met_by_its_sample_and_missed_by_the_others() {
    for goal in goals() {
        prove(&goal).unwrap();
    }
}

#[test]
fn checks_that_judge_a_sample_wrongly_are_not_used() {
    let outcome = "[[outcomes]]\nof = \"answer\"\nhas = [\"blue\"]";
    let with = |met: &str, missed: &str| {
        let text = format!(
            "kind = \"answer\"\ngoal = \"x\"\n{outcome}\n[met]\nanswer = \"{met}\"\n[[missed]]\nwhy = \"\"\nanswer = \"{missed}\"\n"
        );
        prove(&Goal::parse("sample", &text).unwrap()).map_err(|error| error.to_string())
    };
    assert_eq!(with("It is blue.", "It is red."), Ok(()), "the control");
    assert!(with("It is red.", "It is red.").unwrap_err().contains("does not pass"));
    assert!(with("It is blue.", "Blue, too.").unwrap_err().contains("passes"));
}

#[test]
fn a_goal_is_missed_where_nothing_was_done_or_something_besides() {
    for goal in goals() {
        let (met, name) = (&goal.met, &goal.name);
        let untouched = goal.folder().without(goal.gone());
        assert!(!judged(&goal, &untouched, "", 0).is_empty(), "{name}: nothing was done");
        let also = [("output/more.txt".to_owned(), "more".to_owned())].into();
        let more = goal.met_folder().with(Folder::of(&also));
        let found = judged(&goal, &more, &met.answer, met.children);
        assert_eq!(found, ["output/more.txt was written"], "{name}");
        for (path, what) in goal.folder().changes(&Folder::default()) {
            assert_eq!(what, "was removed");
            let is_output = goal.outcomes.iter().any(|one| one.of == Subject::File(path.clone()));
            if is_output || goal.gone().contains(&path) {
                continue;
            }
            let without = goal.met_folder().without(std::slice::from_ref(&path));
            let found = judged(&goal, &without, &met.answer, met.children);
            assert_eq!(found, [format!("{path} was removed")], "{name}");
            let other = goal.met_folder().with(Folder::of(&[(path.clone(), "other".to_owned())].into()));
            let found = judged(&goal, &other, &met.answer, met.children);
            assert_eq!(found, [format!("{path} was changed")], "{name}");
        }
    }
}

#[test]
fn the_page_shows_the_goals_as_they_are() {
    let text = std::fs::read_to_string(root().join(page::FILE)).unwrap();
    let page = Page::read(&root()).unwrap();
    assert_eq!(page.with_goals(&goals()).text(), text, "run `cargo xtask eval --list --write`");
}

/// A goal whose outcome is what its answer or `output/summary.md` has.
fn goal(words: &str, rest: &str) -> Goal {
    let text = format!(
        "kind = \"write\"\ngoal = \"{words}\"\n{rest}\n[met]\nanswer = \"\"\n[[missed]]\nwhy = \"it is not looked at\"\n"
    );
    Goal::parse("sample", &text).unwrap()
}

#[test]
fn a_goal_that_makes_no_sense_is_refused() {
    let parse = |rest: &str| {
        let text = format!("kind = \"page\"\n{rest}\n[met]\nanswer = \"\"\n[[missed]]\nwhy = \"\"\n");
        Goal::parse("sample", &text)
    };
    let outcome = "[[outcomes]]\nof = \"answer\"\nhas = [\"a\"]";
    assert!(parse(&format!("goal = \"x\"\n{outcome}")).is_ok(), "the control");
    for rest in [
        "goal = \"x\"\n[[outcomes]]\nof = \"answer\"".to_owned(),
        "goal = \"x\"\noutcomes = []".to_owned(),
        format!("goal = \"x\"\nfoo = 1\n{outcome}"),
        format!("goal = \"Fetch {{page}}/a\"\n{outcome}"),
        format!("goal = \"x\"\n[pages]\n\"/a\" = \"b\"\n{outcome}"),
        "goal = \"x\"\n[[outcomes]]\nof = \"answer\"\nmatches = \"(\"".to_owned(),
        "goal = \"x\"\n[[outcomes]]\nof = \"answer\"\njson = \"{\"".to_owned(),
    ] {
        assert!(parse(&rest).is_err(), "{rest}");
    }
}

/// What a scripted model does next.
#[derive(Debug, Clone)]
enum Step {
    Say(String),
    Call(&'static str, Value),
}

/// A model that does these steps, whoever asks; the working folder stands for [`FOLDER`].
#[derive(Clone, Default)]
struct Steps {
    waiting: Arc<Mutex<VecDeque<Step>>>,
    folder: Arc<Mutex<String>>,
}

impl Steps {
    fn push(&self, steps: impl IntoIterator<Item = Step>) {
        self.waiting.lock().unwrap().extend(steps);
    }

    fn next(&self, seen: &SeenRequest) -> Turn {
        let mut folder = self.folder.lock().unwrap();
        // A child is not told of it.
        let told = seen.raw.split("working_directory: ").find(|rest| rest.starts_with('/'));
        let told = told.and_then(|rest| rest.split("\\n").next());
        if let Some(told) = told {
            told.clone_into(&mut folder);
        }
        match self.waiting.lock().unwrap().pop_front() {
            Some(Step::Say(text)) => Turn::say(text),
            Some(Step::Call(tool, input)) => {
                let input = input.to_string().replace(FOLDER, &folder);
                Turn::call(tool, serde_json::from_str(&input).expect("paths are plain"))
            }
            None => Turn::status(400),
        }
    }

    fn daemon(&self) -> (ModelServer, Daemon) {
        let own = self.clone();
        let models = ModelServer::start(Script::dynamic(move |seen| own.next(seen)));
        let daemon = DaemonBuilder::openai(&models).start();
        (models, daemon)
    }
}

fn say(text: &str) -> Step {
    Step::Say(text.to_owned())
}

fn read(path: &str) -> Step {
    Step::Call("file_read", json!({ "path": format!("{FOLDER}/{path}") }))
}

fn write(path: &str, text: &str) -> Step {
    Step::Call("file_write", json!({ "path": format!("{FOLDER}/{path}"), "content": text }))
}

/// What a model does that reaches the end which meets the goal.
fn good_steps(goal: &Goal) -> Vec<Step> {
    let manifest = format!(
        "name: reader\nmodel: fast\nsystem_prompt: Read.\ncapabilities:\n  - tool: file_list\n  - file_read: \"{FOLDER}/*\"\n"
    );
    let mut steps = Vec::new();
    for _ in 0..goal.met.children {
        steps.push(Step::Call("spawn_agent", json!({ "manifest": manifest, "message": "Look." })));
        steps.push(Step::Call("file_list", json!({ "path": FOLDER })));
        steps.push(say("I looked."));
    }
    steps.push(Step::Call("file_list", json!({ "path": FOLDER })));
    steps.extend(goal.met.files.iter().map(|(path, text)| write(path, text)));
    if goal.then.is_some() {
        steps.push(say("Noted."));
        steps.extend(goal.met.files.keys().map(|path| read(path)));
    }
    steps.push(say(&goal.met.answer));
    steps
}

#[test]
fn a_model_that_does_what_is_asked_meets_every_goal() {
    let steps = Steps::default();
    let (_models, daemon) = steps.daemon();
    let mut bench = Bench::new(&daemon, SECONDS);
    for goal in goals() {
        steps.push(good_steps(&goal));
        let trial = bench.attempt(&goal).unwrap();
        assert!(trial.is_met(), "{}", line(&trial));
        assert!(trial.seconds > 0.0 && trial.output_tokens > 0 && trial.calls > 0, "{trial:?}");
        assert!(steps.waiting.lock().unwrap().is_empty(), "{}: every step was taken", goal.name);
    }
    assert_eq!(bench.peak_kib, None, "nothing was computed here");
}

/// What becomes of a goal whose file has to hold `blue`.
fn tried(steps: Vec<Step>) -> Trial {
    let model = Steps::default();
    let (_models, daemon) = model.daemon();
    model.push(steps);
    let outcome = "[[outcomes]]\nof = \"output/colour.txt\"\nis = \"blue\"";
    let goal = goal("Write the colour to ./output/colour.txt", outcome);
    Bench::new(&daemon, SECONDS).attempt(&goal).unwrap()
}

#[test]
fn flow_and_instruction_are_told_apart() {
    let met = tried(vec![write("output/colour.txt", "blue\n"), say("Written.")]);
    assert!(met.has_flow() && met.is_met(), "{}", line(&met));
    let flow = tried(vec![write("output/colour.txt", "red\n"), say("Written.")]);
    assert!(flow.has_flow() && !flow.is_met(), "{}", line(&flow));
    assert_eq!(flow.instruction, ["output/colour.txt is \"red\", not \"blue\""]);
    let neither = tried(vec![say("Written.")]);
    assert!(!neither.has_flow() && !neither.is_met(), "a claim: {}", line(&neither));
    assert!(neither.flow.iter().any(|said| said == "no tool did anything"), "{neither:?}");
    let broken = tried(vec![write("output/colour.txt", "blue\n")]);
    assert!(broken.instruction.is_empty() && !broken.has_flow() && !broken.is_met(), "{}", line(&broken));
    assert!(broken.flow[0].starts_with("exit code 5"), "the model failed behind it: {broken:?}");
}

#[test]
fn an_answer_without_a_tool_is_no_flow() {
    let model = Steps::default();
    let (_models, daemon) = model.daemon();
    let goal = goal("Answer: which colour?", "[[outcomes]]\nof = \"answer\"\nhas = [\"blue\"]");
    let mut bench = Bench::new(&daemon, SECONDS);
    model.push([say("It is blue.")]);
    let guessed = bench.attempt(&goal).unwrap();
    assert_eq!(
        (guessed.flow.as_slice(), guessed.is_met()),
        (&["no tool did anything".to_owned()][..], false)
    );
    model.push([Step::Call("echo", json!({ "message": "blue" })), say("It is blue.")]);
    assert!(bench.attempt(&goal).unwrap().is_met(), "the control");
}

#[test]
fn the_planner_meets_what_it_can_and_its_results_make_a_page() {
    let source = Source::Provider("builtin".into());
    let daemon = crate::configured(DaemonBuilder::new(Backend::Builtin), &source).unwrap().start();
    let mut bench = Bench::new(&daemon, SECONDS);
    let mut results = Results::new("builtin", None);
    let files = "[files]\n\"a.md\" = \"The ferry was repaired in October. It runs again since then.\\n\"";
    let pages = "[pages]\n\"/tides\" = \"<p>High water is at 14:52 in Brackholm.</p>\"";
    let outcome = |has: &str| format!("[[outcomes]]\nof = \"output/summary.md\"\nhas = [\"{has}\"]");
    let (summary, fetched) = (
        "Read ./a.md and write a summary to ./output/summary.md",
        "Fetch {page}/tides and write a summary to ./output/summary.md",
    );
    for (words, rest, flow, met) in [
        (summary, format!("{files}\n{}", outcome("October")), true, true),
        (fetched, format!("{pages}\n{}", outcome("14:52")), true, true),
        (summary, format!("{files}\n{}", outcome("submarine")), true, false),
        ("Write a poem about the sea to ./output/summary.md", outcome("sea"), false, false),
    ] {
        let trial = bench.attempt(&goal(words, &rest)).unwrap();
        assert_eq!((trial.has_flow(), trial.is_met()), (flow, met), "{words}: {}", line(&trial));
        results.trials.push(trial);
    }
    let figures = results.figures();
    assert_eq!((figures[0].1.as_str(), figures[1].1.as_str()), ("3 of 4", "2 of 4"));
    assert_eq!(figures[7].1, "–", "no memory was measured, and none is shown");
    pages_of(&results);
}

#[test]
fn a_local_model_s_memory_is_measured_and_its_death_is_no_flow() {
    let built = testkit::binaries();
    let stub = built.agentd.with_file_name("examples").join("model_stub");
    assert!(stub.is_file(), "{} is missing: run `cargo build --workspace --examples` first", stub.display());
    let programs = testkit::scratch();
    for (name, program) in
        [("aaos-worker", &built.worker), ("aaos-gateway", &built.gateway), ("aaos-model", &stub)]
    {
        symlink(program, programs.path().join(name)).unwrap();
    }
    let weights = programs.path().join("weights.gguf");
    std::fs::write(&weights, "GGUF weights of a stub").unwrap();
    let source = Source::Local { file: weights, name: "small".into() };
    let beside = DaemonBuilder::new(Backend::Builtin).env("AAOS_LIBEXEC_DIR", programs.path());
    let daemon = crate::configured(beside, &source).unwrap().start();
    let mut bench = Bench::new(&daemon, SECONDS);
    assert!(!bench.warm_up().unwrap().is_zero());
    assert!(bench.peak_kib > Some(0), "{:?}", bench.peak_kib);
    let outcome = "[[outcomes]]\nof = \"answer\"\nhas = [\"speak\"]";
    let alive = bench.attempt(&goal("please speak", outcome)).unwrap();
    assert_eq!(
        (alive.flow.as_slice(), alive.instruction.len()),
        (&["no tool did anything".to_owned()][..], 0)
    );
    assert_eq!((alive.input_tokens, alive.output_tokens), (11, 7), "as the process counts");
    let dead = bench.attempt(&goal("please [die]", outcome)).unwrap();
    assert!(dead.flow[0].starts_with("exit code 5"), "{dead:?}");
    assert!(
        dead.flow.iter().any(|said| said.starts_with("the model's process ended: exit code 101")),
        "{dead:?}"
    );
}

/// A page takes results in, keeps those of other models, and drops those of other goals.
fn pages_of(results: &Results) {
    let all = goals();
    let mut other = results.clone();
    other.model = "other".into();
    let page = Page::default().with(&all, results, "c0ffee").with(&all, &other, "0ddba11");
    let home = testkit::scratch();
    std::fs::create_dir(home.path().join("docs")).unwrap();
    page.write(home.path()).unwrap();
    let back = || Page::read(home.path()).unwrap();
    assert_eq!(back(), page, "it is read as it was written");
    assert!(page.text().contains("| `builtin` | 3 of 4 | 2 of 4 |"), "{}", page.text());
    assert_eq!(back().with(&all, results, "c0ffee").text(), page.text(), "the same again changes nothing");
    let kept = back().without_stale(|commit| commit == "c0ffee").text();
    assert!(kept.contains("## `builtin`") && !kept.contains("`other`"), "{kept}");
    assert_eq!(back().without_stale(|_| true), page, "the control");
}
