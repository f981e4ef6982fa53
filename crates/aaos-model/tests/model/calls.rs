//! What a model that was offered tools says is text or valid calls of them, whatever the schemas and whatever the model.

use crate::gguf::tiny_engine;
use aaos_core::model::{ModelCall, Narrowed, NarrowedCall, ToolSpec};
use aaos_core::name::ToolName;
use aaos_core::tool::{CATALOGUE, ToolDescriptor};
use aaos_model::error::AnswerError;
use aaos_model::grammar::{Grammars, Speech};
use aaos_model::reply::Said;
use aaos_model::sampler::{Choice, Sampler};
use aaos_model::tokens::{Token, Vocabulary};
use serde_json::{Value, json};

/// A small generator, so that every run has the same schemas.
struct Dice(u64);

impl Dice {
    fn below(&mut self, most: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % most
    }
}

/// A schema as tools have them, of bounded size so that a model of noise comes to its end.
fn schema(dice: &mut Dice, depth: u32) -> Value {
    let kinds = if depth == 0 { 8 } else { 12 };
    match dice.below(kinds) {
        0 => json!({ "type": "string", "maxLength": dice.below(6) }),
        1 => json!({ "type": "string", "enum": ["/a/b.txt", "\u{e4} \"quoted\" \\", "", "</tool_call>"] }),
        2 => json!({ "type": "boolean" }),
        3 => json!({ "type": ["string", "null"], "maxLength": 3 }),
        4 => json!({ "type": "integer", "minimum": 0, "maximum": dice.below(5_000) }),
        5 => json!({ "type": "integer", "minimum": -20, "maximum": 7, "format": "int32" }),
        6 => json!({ "const": { "deep": [1, null, "x"] } }),
        7 => json!({ "type": "string", "pattern": "^[a-z]{2,4}-[0-9]{1,3}$" }),
        8 => {
            json!({ "type": "array", "items": schema(dice, depth - 1), "minItems": 1, "maxItems": 1 + dice.below(3) })
        }
        9 => json!({ "anyOf": [schema(dice, depth - 1), { "type": "null" }] }),
        _ => object(dice, depth - 1),
    }
}

fn object(dice: &mut Dice, depth: u32) -> Value {
    let names = ["path", "kind", "limit", "a b", "\u{fc}"];
    let count = 1 + dice.below(4) as usize;
    let properties: serde_json::Map<_, _> =
        names[..count].iter().map(|name| ((*name).to_owned(), schema(dice, depth))).collect();
    let required: Vec<_> = names[..count].iter().filter(|_| dice.below(2) == 0).collect();
    json!({ "type": "object", "properties": properties, "required": required, "additionalProperties": false })
}

fn tool(name: &str, input_schema: Value) -> ToolSpec {
    ToolSpec {
        name: ToolName::parse(name).expect("a name"),
        description: "Does it.".to_owned(),
        input_schema,
    }
}

/// Has a model of noise say something that begins with `begun`; gives it and whether it came to its end.
fn say(
    (speech, tools): (&mut Speech, &[ToolSpec]),
    vocabulary: &Vocabulary,
    begun: &str,
    dice: &mut Dice,
    most: usize,
) -> (Said, bool) {
    let mut said = Said::new(tools);
    let mut sampler = Sampler::new(Choice::Chance { temperature: 1.0, seed: dice.below(1 << 30) });
    let mut begun = vocabulary.encode(begun).expect("text").into_iter();
    for _ in 0..most {
        let allowed = speech.allowed().expect("within the limits");
        let token = match begun.next() {
            Some(token) => Token(token),
            None => {
                let scores: Vec<f32> = (0..vocabulary.len()).map(|_| dice.below(3) as f32).collect();
                sampler.choose(&scores, |one| allowed.has(one)).expect("something is allowed")
            }
        };
        assert!(allowed.has(token) && (vocabulary.is_end(token) || !vocabulary.is_control(token)));
        if vocabulary.is_end(token) {
            return (said, true);
        }
        let forced = speech.say(token).expect("an allowed token");
        for token in std::iter::once(token.0).chain(forced) {
            said.hear(vocabulary.bytes(Token(token)));
        }
        // What was begun may have been forced already.
        if speech.is_over() {
            return (said, true);
        }
    }
    (said, false)
}

/// What a call of `first` begins with, in each form, and what stands before it there.
const BEGUN: [(&str, &str); 5] = [
    ("<tool_call>", ""),
    ("```json\n{\"name\": \"first\", \"arguments\":", ""),
    ("I do.\n```\n{\n  \"name\": \"first\",\n  \"arguments\": ", "I do."),
    ("{\"name\": \"first\", \"arguments\": ", ""),
    ("\n{ \"name\":\"first\",\"arguments\":", ""),
];

fn assert_valid(call: &ModelCall, schemas: &[(&str, &Value)]) {
    let named = schemas.iter().find(|(name, _)| *name == call.tool.0).expect("a tool on offer");
    let arguments: Value = serde_json::from_str(&call.arguments.0).expect("JSON");
    let validator = jsonschema::validator_for(named.1).expect("a schema");
    assert!(validator.is_valid(&arguments), "{arguments} does not fit {}", named.1);
}

#[test]
fn every_call_of_a_thousand_random_schemas_is_valid_in_each_form() {
    let mut dice = Dice(11);
    let engine = tiny_engine(Choice::Greedy);
    let vocabulary = engine.vocabulary();
    let mut grammars = Grammars::new(vocabulary).expect("a whole vocabulary");
    let (mut valid, mut ended) = (0_u32, 0_u32);
    for (begun, prose) in BEGUN.iter().cycle().take(500) {
        let tools = ["first", "second"].map(|name| tool(name, object(&mut dice, 2)));
        let schemas = [("first", &tools[0].input_schema), ("second", &tools[1].input_schema)];
        let mut speech = grammars.begin(&tools, None).expect("schemas that can be held");
        let (said, is_ended) = say((&mut speech, &tools), vocabulary, begun, &mut dice, 3_000);
        let heard = said.heard();
        ended += u32::from(is_ended);
        assert!(!is_ended || !heard.calls.is_empty(), "a reply that came to its end has a call");
        assert_eq!(heard.text, *prose);
        heard.calls.iter().for_each(|call| assert_valid(call, &schemas));
        valid += u32::try_from(heard.calls.len()).expect("few");
    }
    assert!(valid >= 480 && ended >= 480, "{valid} valid calls of {ended} replies that came to their end");
}

/// Whether a reply may begin so. What can only follow is taken at once.
fn takes(speech: &mut Speech, vocabulary: &Vocabulary, begun: &str) -> bool {
    let mut left = begun;
    loop {
        let Some(token) = vocabulary.encode(left).expect("text").first().map(|token| Token(*token)) else {
            return true;
        };
        if !speech.allowed().is_ok_and(|allowed| allowed.has(token)) {
            return false;
        }
        let Ok(forced) = speech.say(token) else { return false };
        let said: Vec<u8> = std::iter::once(token.0)
            .chain(forced)
            .flat_map(|token| vocabulary.bytes(Token(token)).to_vec())
            .collect();
        if said.starts_with(left.as_bytes()) {
            return true;
        }
        let Some(rest) = std::str::from_utf8(&said).ok().and_then(|said| left.strip_prefix(said)) else {
            return false;
        };
        left = rest;
    }
}

#[test]
fn a_narrowed_reply_is_one_of_the_calls_that_are_left_or_text_where_it_may_be() {
    let mut dice = Dice(17);
    let engine = tiny_engine(Choice::Greedy);
    let vocabulary = engine.vocabulary();
    let mut grammars = Grammars::new(vocabulary).expect("a whole vocabulary");
    let tools = ["first", "second"].map(|name| tool(name, json!({ "type": "object" })));
    let schema = json!({
        "type": "object", "additionalProperties": false, "required": ["a", "path"],
        "properties": { "a": { "type": "string", "maxLength": 3 }, "path": { "enum": ["/x/one", "/x/two"] } },
    });
    let call = |name: &str| NarrowedCall {
        tool: ToolName::parse(name).expect("a name"),
        input_schema: schema.clone(),
    };
    let narrowed = |calls: &[&str], may_answer| Narrowed {
        calls: calls.iter().map(|name| call(name)).collect(),
        may_answer,
    };
    for _ in 0..40 {
        let mut speech =
            grammars.begin(&tools, Some(&narrowed(&["second"], false))).expect("a schema that can be held");
        let (said, is_ended) = say((&mut speech, &tools), vocabulary, "", &mut dice, 400);
        let heard = said.heard();
        assert!(is_ended && heard.text.is_empty(), "nothing but the call: {heard:?}");
        let [only] = heard.calls.as_slice() else { panic!("one call: {heard:?}") };
        assert_valid(only, &[("second", &schema)]);
        assert!(only.arguments.0.starts_with("{\"path\": \"/x/"), "what is chosen comes first: {only:?}");
    }
    for (begun, may_begin) in
        [("Done.", true), ("{\"name", false), ("```", false), (" {", false), ("<", false)]
    {
        let mut speech = grammars.begin(&tools, Some(&narrowed(&[], true))).expect("no schema at all");
        let token = vocabulary.encode(begun).expect("text")[0];
        assert_eq!(speech.allowed().expect("within the limits").has(Token(token)), may_begin, "{begun:?}");
        let mut free = grammars.begin(&tools, None).expect("schemas that can be held");
        assert!(free.allowed().expect("within the limits").has(Token(token)), "the control: {begun:?}");
    }
    // Calls that are not left are neither calls nor text, in any form; the first letters of them are text.
    for (narrowed, may_begin) in [
        (narrowed(&[], true), [false; 5]),
        (narrowed(&[], false), [false; 5]),
        (narrowed(&["second"], true), [true, false, false, false, false]),
        (narrowed(&["first"], true), [true; 5]),
        (narrowed(&["unknown"], true), [false; 5]),
    ] {
        for ((begun, _), may_begin) in BEGUN.iter().zip(may_begin) {
            let mut speech = grammars.begin(&tools, Some(&narrowed)).expect("a schema that can be held");
            let taken = takes(&mut speech, vocabulary, begun);
            assert_eq!(taken, may_begin, "{begun:?} of {narrowed:?}");
        }
    }
}

#[test]
fn text_has_no_call_and_text_before_a_call_is_text() {
    let mut dice = Dice(5);
    let engine = tiny_engine(Choice::Greedy);
    let vocabulary = engine.vocabulary();
    let mut grammars = Grammars::new(vocabulary).expect("a whole vocabulary");
    let none = json!({ "type": "object", "properties": {}, "additionalProperties": false });
    for _ in 0..40 {
        let mut free = grammars.begin(&[], None).expect("no schema at all");
        let (said, _) = say((&mut free, &[]), vocabulary, "<tool_cal", &mut dice, 60);
        let heard = said.heard();
        assert!(
            heard.calls.is_empty()
                && heard.text.starts_with("<tool_cal")
                && !heard.text.contains("<tool_call>")
        );
        let only = [tool("only", none.clone())];
        let mut speech = grammars.begin(&only, None).expect("a schema");
        let (said, is_ended) = say((&mut speech, &only), vocabulary, "I do it: <tool_call>", &mut dice, 60);
        let heard = said.heard();
        assert!(is_ended && heard.text == "I do it: " && heard.calls.iter().all(|one| one.tool.0 == "only"));
        assert!((1..=8).contains(&heard.calls.len()));
        for other in ["```json\n{\"name\": \"Alice\", \"arguments\": {}}", "{\"name\": \"only\", \"age\": 7}"]
        {
            let mut speech = grammars.begin(&only, None).expect("a schema");
            let (said, _) = say((&mut speech, &only), vocabulary, other, &mut dice, 60);
            let heard = said.heard();
            assert!(heard.calls.is_empty() && heard.text.starts_with(other), "{heard:?}");
        }
    }
}

#[test]
fn a_schema_that_cannot_be_held_is_refused_by_its_tools_name() {
    let engine = tiny_engine(Choice::Greedy);
    let mut grammars = Grammars::new(engine.vocabulary()).expect("a whole vocabulary");
    let good = tool("good", json!({ "type": "object" }));
    grammars.begin(std::slice::from_ref(&good), None).expect("any object can be held");
    for schema in [
        json!({ "type": "object", "properties": { "x": { "$ref": "https://example.org/x" } }, "required": ["x"] }),
        json!({ "type": "object", "properties": { "x": { "type": "string", "pattern": "(" } }, "required": ["x"] }),
        json!({ "type": "object", "not": { "required": ["x"] } }),
        json!({ "type": "object", "x-guidance": { "lenient": true }, "not": { "required": ["x"] } }),
        json!(false),
        json!(7),
    ] {
        let refused = grammars.begin(&[good.clone(), tool("odd", schema.clone())], None);
        let Err(AnswerError::Schema { tool, .. }) = refused else { panic!("{schema} is held: {refused:?}") };
        assert_eq!(tool.to_string(), "`odd`");
    }
}

#[test]
fn every_tool_of_ours_can_be_offered() {
    let engine = tiny_engine(Choice::Greedy);
    let mut grammars = Grammars::new(engine.vocabulary()).expect("a whole vocabulary");
    let of = |one: &ToolDescriptor| tool(one.name, one.input_schema());
    let tools: Vec<ToolSpec> = CATALOGUE.iter().map(of).collect();
    assert!(tools.len() > 10, "{} tools", tools.len());
    grammars.begin(&tools, None).expect("all of them together");
}
