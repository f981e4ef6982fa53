//! Phrasings and the plans they mean; goals that must be refused.

use crate::builtin::goal::{Act, Input, Topic, read};

/// What a goal means, in short: act, inputs, outputs.
fn shown(goal: &str) -> Result<String, String> {
    let plan = read(goal).map_err(|error| error.to_string())?;
    let act = match plan.act {
        Act::Summarise => "summarise".to_owned(),
        Act::Compare => "compare".to_owned(),
        Act::List => "list".to_owned(),
        Act::Extract(Topic::Words(words)) => format!("extract[{}]", words.join(" ")),
        Act::Extract(Topic::Special(special)) => format!("extract[{special:?}]"),
        Act::Search(pattern) => format!("search[{}]", pattern.regex()),
    };
    let input = |input: &Input| match input {
        Input::Path(text) | Input::Url(text) => text.clone(),
    };
    let inputs: Vec<String> = plan.inputs.iter().map(input).collect();
    let only = if plan.only.is_empty() { String::new() } else { format!(" ({})", plan.only.join(",")) };
    let limit = plan.limit.map(|limit| format!(" x{limit}")).unwrap_or_default();
    Ok(format!("{act}{limit} {}{only} -> {}", inputs.join(","), plan.outputs.join(",")))
}

const UNDERSTOOD: &[(&str, &str)] = &[
    (
        "Read the files in ./docs and write a summary to ./output/summary.md",
        "summarise ./docs -> ./output/summary.md",
    ),
    (
        "Fetch http://127.0.0.1:8080/page and write a summary to ./output/page.md",
        "summarise http://127.0.0.1:8080/page -> ./output/page.md",
    ),
    ("List the files in ./src and write the list to ./output/list.md", "list ./src -> ./output/list.md"),
    (
        "Search for TODO in ./src and write the matches to output/todo.md",
        "search[TODO] ./src -> output/todo.md",
    ),
    (
        "Compare ./a.md and ./b.md and write the differences to ./output/diff.md",
        "compare ./a.md,./b.md -> ./output/diff.md",
    ),
    ("Read ./notes.txt and summarise it", "summarise ./notes.txt -> "),
    ("Summarize ./docs", "summarise ./docs -> "),
    ("Summarise ./docs into ./out.md.", "summarise ./docs -> ./out.md"),
    ("Summarise the files in ./docs in ./out.md", "summarise ./docs -> ./out.md"),
    (
        "Please read through all of the markdown files in './my docs' and save a short summary into 'output/my summary.md'",
        "summarise ./my docs (md,markdown) -> output/my summary.md",
    ),
    (
        "Could you please summarise README.md and put the result in ./output/readme.md?",
        "summarise README.md -> ./output/readme.md",
    ),
    ("Write a summary of ./docs to ./out.md", "summarise ./docs -> ./out.md"),
    ("Write a summary of the files in ./docs to ./out.md", "summarise ./docs -> ./out.md"),
    ("Write to ./out.md a summary of ./docs", "summarise ./docs -> ./out.md"),
    ("Into ./out.md write a summary of ./a.md and ./b.md", "summarise ./a.md,./b.md -> ./out.md"),
    ("Create ./output/s.md with a summary of ./docs", "summarise ./docs -> ./output/s.md"),
    ("Make a summary of ./docs and store it in ./output/s.md", "summarise ./docs -> ./output/s.md"),
    (
        "I want you to read ./docs, summarise it, and then save the summary as ./s.md",
        "summarise ./docs -> ./s.md",
    ),
    ("Use ./a.md and ./b.md to write an overview to ./o.md", "summarise ./a.md,./b.md -> ./o.md"),
    ("Give me the key points of ./notes.txt", "summarise ./notes.txt -> "),
    ("Extract the most important sentences from ./notes.txt to ./o.md", "summarise ./notes.txt -> ./o.md"),
    ("Summarise ./notes.txt in 5 sentences", "summarise x5 ./notes.txt -> "),
    ("Summarise ./notes.txt in three bullet points and save to ./o.md", "summarise x3 ./notes.txt -> ./o.md"),
    (
        "Download https://example.org/a and https://example.org/b, then write a summary to out.md",
        "summarise https://example.org/a,https://example.org/b -> out.md",
    ),
    (
        "Get https://example.org/a?x=1&y=(2). Then summarise it.",
        "summarise https://example.org/a?x=1&y=(2) -> ",
    ),
    ("Read the docs folder and write a summary to the output folder", "summarise docs/ -> output/"),
    ("Read the files in docs and write a summary to output/s.md", "summarise docs/ -> output/s.md"),
    ("Summarise the current directory to out.md", "summarise ./ -> out.md"),
    ("Read ./docs/*.md and write a summary to ./o.md", "summarise ./docs/ (md) -> ./o.md"),
    ("List everything under ./src", "list ./src -> "),
    ("List the contents of ./src and save them to ./l.md", "list ./src -> ./l.md"),
    ("Write a list of the files in ./src to ./l.md", "list ./src -> ./l.md"),
    ("Find all rust files in ./src", "list ./src (rs) -> "),
    ("Find all TODOs in ./src", "search[TODO] ./src -> "),
    (
        "Find all TODO comments in ./src and ./tests and write them to ./t.md",
        "search[TODO] ./src,./tests -> ./t.md",
    ),
    ("Search ./src for TODO or FIXME and put the matches in ./t.md", "search[TODO|FIXME] ./src -> ./t.md"),
    (
        "Search for \"write to disk\" in ./docs and write the results to ./r.md",
        "search[write to disk] ./docs -> ./r.md",
    ),
    ("In ./src, look for the word unsafe and report the lines", "search[unsafe] ./src -> "),
    ("grep for a.b(c) in ./src", "search[a\\.b\\(c\\)] ./src -> "),
    ("Which files in ./src mention TODO?", "search[TODO] ./src -> "),
    ("Find lines containing main.rs in ./docs", "search[main\\.rs] ./docs -> "),
    ("Search for the regular expression \"fn \\w+\" in ./src", "search[fn \\w+] ./src -> "),
    ("Compare ./a.md to ./b.md", "compare ./a.md,./b.md -> "),
    ("Compare ./a.md with ./b.md in ./diff.md", "compare ./a.md,./b.md -> ./diff.md"),
    ("What are the differences between ./a.md and ./b.md?", "compare ./a.md,./b.md -> "),
    (
        "Read ./a.md and ./b.md, find the differences and save them in ./d.md",
        "compare ./a.md,./b.md -> ./d.md",
    ),
    (
        "Compare http://h/a and http://h/b and write a report to ./d.md",
        "compare http://h/a,http://h/b -> ./d.md",
    ),
    (
        "Extract the sentences about memory budgets from ./docs and write them to ./b.md",
        "extract[memory budgets] ./docs -> ./b.md",
    ),
    ("Read ./docs and tell me what it says about budgets", "extract[budgets] ./docs -> "),
    ("Extract all email addresses from ./contacts.txt to ./o.md", "extract[Emails] ./contacts.txt -> ./o.md"),
    ("List the headings of ./README.md", "extract[Headings] ./README.md -> "),
    ("Fetch http://h/a and search it for \"moon\"", "extract[moon] http://h/a -> "),
    ("summary of ./docs -> ./o.md", "summarise ./docs -> ./o.md"),
    (
        "Summarise ./a.md in no more than 4 sentences and save it to a markdown file ./o.md",
        "summarise x4 ./a.md -> ./o.md",
    ),
    ("Read ./a.md as well as ./b.md and write a summary to ./o.md", "summarise ./a.md,./b.md -> ./o.md"),
];

const REFUSED: &[(&str, &str)] = &[
    ("", "empty"),
    ("Hello", "neither"),
    ("Write me a poem about the sea", "poem"),
    ("Read ./a.md and write a poem to ./o.md", "poem"),
    ("Read ./a.md and translate it to French", "translate"),
    ("Summarise ./a.md in French", "french"),
    ("Refactor ./src and write the result to ./o.md", "refactor"),
    ("Delete ./docs", "delete"),
    ("Read ./docs and then email a summary to bob", "email"),
    ("Read all files in ./docs except ./docs/secret.md and summarise them", "except"),
    ("Read ./docs but do not read ./docs/x.md; write a summary to ./o.md", "not"),
    ("Summarise the news", "names no file"),
    ("Summarise ftp://h/x", "not an http"),
    ("Summarise ~/notes.txt", "full path"),
    ("Summarise ./docs/**/x.md to ./o.md", "glob"),
    ("Summarise ./a.md and write it to http://h/x", "URL"),
    ("Summarise ./a.md and write it to ./o.pdf", ".md or .txt"),
    ("Search ./src", "search for"),
    ("Extract from ./a.md", "what to extract"),
    ("List the functions in ./src", "functions"),
    ("Run ./build.sh and write the output to ./o.md", "run"),
    ("Copy ./a.md to ./b.md", "copy"),
    ("Write a summary of ./a.md to ./x.md and a list of the files in ./docs to ./y.md", "different results"),
    ("List http://h/x", "not on URLs"),
];

#[test]
fn phrasings_mean_their_plans() {
    assert!(UNDERSTOOD.len() >= 40);
    let wrong: Vec<String> = UNDERSTOOD
        .iter()
        .filter_map(|(goal, plan)| {
            let found = shown(goal).unwrap_or_else(|error| format!("refused: {error}"));
            (found != *plan).then(|| format!("{goal}\n  expected {plan}\n  found    {found}"))
        })
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn what_is_not_offered_is_refused_with_its_reason() {
    assert!(REFUSED.len() >= 10);
    let wrong: Vec<String> = REFUSED
        .iter()
        .filter_map(|(goal, reason)| match shown(goal) {
            Err(error) if error.contains(reason) => None,
            other => Some(format!("{goal}\n  expected {reason}\n  found    {other:?}")),
        })
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
