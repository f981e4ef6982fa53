//! Schemas: what they catch, and what a hostile one cannot do.

use aaos_core::limits::MAX_SCHEMA_ERRORS;
use aaos_core::tool::CATALOGUE;
use aaos_ipc::{Schema, SchemaError};
use proptest::prelude::*;
use serde_json::{Value, json};

fn compile(schema: &Value) -> Schema {
    Schema::compile(schema).expect("a schema")
}

#[test]
fn violations_name_the_place_and_do_not_echo_the_document() {
    let schema = compile(&json!({
        "type": "object",
        "properties": {"path": {"type": "string", "minLength": 2}, "n": {"$ref": "#/$defs/n"}},
        "required": ["path"],
        "additionalProperties": false,
        "$defs": {"n": {"type": "integer", "maximum": 3}}
    }));
    assert!(schema.validate(&json!({"path": "/a", "n": 3})).is_ok());
    let found = schema.validate(&json!({"path": "x", "n": 4})).expect_err("two faults");
    let mut places: Vec<_> = found.listed.iter().map(|violation| violation.path.as_str()).collect();
    places.sort_unstable();
    assert_eq!(places, ["/n", "/path"]);
    assert!(schema.validate(&json!({})).expect_err("missing").to_string().contains("path"));
    let secret = "s3cret".repeat(10_000);
    let found = schema.validate(&json!({"path": [secret], "n": secret})).expect_err("wrong types");
    assert!(!found.to_string().contains("s3cret"));
}

#[test]
fn the_list_of_violations_is_bounded() {
    let schema = compile(&json!({"items": {"type": "string"}}));
    let found = schema.validate(&json!(vec![1; 100])).expect_err("all wrong");
    assert_eq!(found.listed.len(), MAX_SCHEMA_ERRORS);
    assert!(found.more);
    let long = "k".repeat(100_000);
    let found =
        compile(&json!({"additionalProperties": false})).validate(&json!({long: 1})).expect_err("extra");
    assert!(found.to_string().len() < 2_000);
}

#[test]
fn every_built_in_tool_has_a_schema_that_compiles() {
    for tool in CATALOGUE {
        Schema::compile(&tool.input_schema()).unwrap_or_else(|error| panic!("{}: {error}", tool.name));
    }
}

#[test]
fn nothing_outside_is_referred_to() {
    for reference in
        ["http://127.0.0.1:1/x", "file:///etc/passwd", "other.json", "#name", "#/$defs/%61", "#/none"]
    {
        let refused = Schema::compile(&json!({"$ref": reference, "$defs": {"a": true}}));
        assert!(matches!(refused, Err(SchemaError::Reference { .. })), "{reference}: {refused:?}");
    }
    for keyword in ["$id", "$anchor", "$dynamicRef"] {
        let refused = Schema::compile(&json!({keyword: "x"}));
        assert!(matches!(refused, Err(SchemaError::Keyword { .. })), "{keyword}");
    }
    let old = json!({"$schema": "http://json-schema.org/draft-07/schema#"});
    assert!(matches!(Schema::compile(&old), Err(SchemaError::Keyword { .. })));
    let current = json!({"$schema": "https://json-schema.org/draft/2020-12/schema", "type": "string"});
    assert!(compile(&current).validate(&json!("x")).is_ok());
}

#[test]
fn properties_may_have_the_names_of_keywords() {
    let schema = compile(&json!({"properties": {"$ref": {"type": "string"}, "$id": {"type": "string"}}}));
    assert!(schema.validate(&json!({"$ref": "x", "$id": "y"})).is_ok());
    assert!(schema.validate(&json!({"$ref": 1})).is_err());
}

#[test]
fn endless_and_exploding_schemas_are_refused() {
    let recursive = [
        json!({"$ref": "#"}),
        json!({"properties": {"a": {"$ref": "#"}}}),
        json!({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}}),
        json!({"allOf": [{"$ref": "#/allOf/0"}]}),
    ];
    for schema in recursive {
        let refused = Schema::compile(&schema);
        assert!(matches!(refused, Err(SchemaError::Recursive { .. })), "{schema}: {refused:?}");
    }
    let mut defs = serde_json::Map::new();
    for level in 0..20 {
        let next = json!({"$ref": format!("#/$defs/d{}", level + 1)});
        defs.insert(format!("d{level}"), json!({"allOf": [next, next]}));
    }
    defs.insert("d20".into(), json!({"type": "string"}));
    let bomb = json!({"$ref": "#/$defs/d0", "$defs": defs});
    assert!(matches!(Schema::compile(&bomb), Err(SchemaError::TooComplex | SchemaError::TooDeep)));
}

#[test]
fn large_and_deep_schemas_are_refused() {
    let long = json!({"description": "x".repeat(70_000)});
    assert!(matches!(Schema::compile(&long), Err(SchemaError::TooLong { .. })));
    let mut deep = json!(true);
    for _ in 0..100 {
        deep = json!({"not": deep});
    }
    assert_eq!(Schema::compile(&deep).err(), Some(SchemaError::TooDeep));
    let wide = json!({"enum": vec![1; 10_000]});
    assert_eq!(Schema::compile(&wide).err(), Some(SchemaError::TooComplex));
}

#[test]
fn patterns_are_linear_and_small() {
    for pattern in ["(?=a)b", "(a)\\1", "((a{1000}){1000}){1000}", "("] {
        let refused = Schema::compile(&json!({"pattern": pattern}));
        assert!(matches!(refused, Err(SchemaError::Invalid { .. })), "{pattern}: {refused:?}");
    }
    let catastrophic = compile(&json!({"pattern": "^(a+)+$"}));
    let text = format!("{}b", "a".repeat(100_000));
    assert!(catastrophic.validate(&json!(text)).is_err());
    assert!(catastrophic.validate(&json!("aaa")).is_ok());
}

#[test]
fn too_much_work_is_refused_before_it_is_done() {
    let many: Vec<_> = (0..3_000).map(|n| json!({"maximum": n})).collect();
    let schema = compile(&json!({"items": {"anyOf": many}}));
    assert!(schema.validate(&json!([1])).is_ok());
    let found = schema.validate(&json!(vec![5_000; 100_000])).expect_err("too much");
    assert!(found.to_string().contains("too large"));
}

#[test]
fn nonsense_is_no_schema() {
    for bad in [json!({"type": "strin"}), json!(3), json!({"required": "path"}), json!({"minimum": "x"})] {
        assert!(matches!(Schema::compile(&bad), Err(SchemaError::Invalid { .. })), "{bad}");
    }
}

fn any_json() -> impl Strategy<Value = Value> {
    let key = prop_oneof![
        Just("type".to_owned()),
        Just("$ref".to_owned()),
        Just("$defs".to_owned()),
        Just("items".to_owned()),
        Just("pattern".to_owned()),
        Just("properties".to_owned()),
        Just("allOf".to_owned()),
        "[a-c]{1,2}",
    ];
    let text =
        prop_oneof![Just("string".to_owned()), Just("#/$defs/a".to_owned()), Just("#".to_owned()), ".{0,6}",];
    let leaf = prop_oneof![
        Just(json!(null)),
        any::<bool>().prop_map(Value::from),
        (-9i64..9).prop_map(Value::from),
        text.prop_map(Value::from)
    ];
    leaf.prop_recursive(5, 40, 6, move |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            proptest::collection::btree_map(key.clone(), inner, 0..6)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn no_schema_and_no_document_panics(schema in any_json(), document in any_json()) {
        if let Ok(schema) = Schema::compile(&schema) {
            let first = schema.validate(&document).is_ok();
            prop_assert_eq!(first, schema.validate(&document).is_ok());
        }
    }
}
