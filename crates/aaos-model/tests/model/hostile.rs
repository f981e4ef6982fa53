//! Files that are not what they say end in a typed error, whatever is wrong with them; and the same file without the fault
//! loads and answers.

use crate::gguf::{Gguf, array, file, text, tiny, tiny_engine, value};
use crate::given::{patient, request, settings};
use aaos_model::engine::{Engine, check};
use aaos_model::error::{AnswerError, FileError};
use aaos_model::sampler::Choice;

/// Loads a file and has it answer.
fn try_all(bytes: &[u8]) -> Result<(), String> {
    let (file, length) = file(bytes);
    let settings = settings(length, 512, Choice::Greedy);
    let mut engine = Engine::load(&file, settings).map_err(|error| error.to_string())?;
    let answered = engine.answer(&request("", "hi", vec![], 2), &patient(), &mut |_| ());
    answered.map(drop).map_err(|error| error.to_string())
}

#[test]
fn a_file_that_was_cut_anywhere_is_refused() {
    let bytes = tiny().bytes();
    try_all(&bytes).expect("the whole file loads and answers");
    let header = tiny().header().len();
    for end in (0..header).chain((header..bytes.len()).step_by(61)) {
        assert!(try_all(&bytes[..end]).is_err(), "cut at {end} of {}", bytes.len());
    }
}

#[test]
fn a_file_that_is_shorter_than_it_was_ends_in_an_error() {
    let bytes = tiny().bytes();
    let (file, _) = file(&bytes[..bytes.len() / 2]);
    let settings = settings(bytes.len() as u64, 512, Choice::Greedy);
    check(&file, settings).expect("its header is whole");
    assert!(matches!(Engine::load(&file, settings), Err(FileError::Io(_))), "its weights are not");
}

#[test]
fn a_header_with_any_byte_changed_never_breaks_the_process() {
    let bytes = tiny().bytes();
    let mut loaded = 0_u32;
    for place in 0..tiny().header().len() {
        let mut changed = bytes.clone();
        changed[place] ^= [0xff, 0x80, 0x01][place % 3];
        loaded += u32::from(try_all(&changed).is_ok());
    }
    assert!(loaded > 0, "a changed name still loads: the loop reaches the loading");
}

#[test]
fn what_is_wrong_is_said() {
    let whole = |number: u32| value(4, &number.to_le_bytes());
    let cases: Vec<(Gguf, &str)> = vec![
        (
            tiny().with("general.architecture", value(8, &text("gpt-j"))),
            "architecture `gpt-j` is not supported",
        ),
        (tiny().with("general.architecture", whole(1)), "it is no text"),
        (tiny().without("general.architecture"), "says nothing of `general.architecture`"),
        (tiny().with("tokenizer.ggml.pre", value(8, &text("mpt"))), "family `mpt` is not supported"),
        (
            tiny().with("tokenizer.ggml.model", value(8, &text("llama"))),
            "vocabulary `llama` is not supported",
        ),
        (tiny().with("general.alignment", whole(0)), "no power of two"),
        (tiny().with("general.alignment", whole(33)), "no power of two"),
        (tiny().with("llama.attention.head_count", whole(0)), "out of range"),
        (tiny().with("llama.attention.head_count_kv", whole(3)), "do not divide"),
        (tiny().with("llama.block_count", whole(2)), "no tensor `blk.1."),
        (tiny().with("llama.block_count", whole(u32::MAX)), "out of range"),
        (tiny().with("llama.context_length", whole(8)), "memory that a model keeps"),
        (tiny().with("llama.embedding_length", whole(64)), "its shape is not what"),
        (
            tiny().with("llama.rope.scaling.type", value(8, &text("yarn"))),
            "positions `yarn` is not supported",
        ),
        (tiny().with("llama.rope.freq_base", value(6, &f32::NAN.to_le_bytes())), "no number above zero"),
        (tiny().with("llama.attention.layer_norm_rms_epsilon", value(6, &0_f32.to_le_bytes())), "above zero"),
        (tiny().with("tokenizer.ggml.merges", array(8, &[text("ab")])), "a merge is no pair"),
        (tiny().with("tokenizer.ggml.merges", array(8, &[text("xx yy")])), "vocabulary is not usable"),
        (tiny().with("tokenizer.ggml.tokens", array(8, &[])), "number of tokens"),
        (tiny().with("tokenizer.ggml.tokens", array(8, &vec![text("a"); 259])), "ends a turn"),
        (tiny().with("tokenizer.ggml.token_type", array(5, &[])), "a number for each token"),
        (tiny().with("x", value(99, &[])), "value type 99"),
        (tiny().with("x", value(7, &[2])), "neither yes nor no"),
        (tiny().with("x", value(8, &u64::MAX.to_le_bytes())), "a text's length"),
        (tiny().with("x", value(8, &[1, 0, 0, 0, 0, 0, 0, 0, 0xff])), "not UTF-8"),
        (tiny().with("x", value(9, &[4, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0])), "an array's length"),
        (tiny().with("x", value(9, &[9, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0])), "value type 9"),
        (tiny().change("token_embd.weight", |one| one.kind = 99), "encoding 99"),
        (tiny().change("token_embd.weight", |one| one.shape = vec![]), "no axis"),
        (tiny().change("token_embd.weight", |one| one.shape = vec![u64::MAX, 2]), "too large"),
        (tiny().change("token_embd.weight", |one| one.shape = vec![32, 0]), "rows are empty"),
        (tiny().change("token_embd.weight", |one| one.shape = vec![32, 258]), "its shape is not what"),
        (tiny().change("token_embd.weight", |one| one.kind = 12), "no whole number of blocks"),
        (tiny().change("token_embd.weight", |one| one.claimed = Some(1)), "no place where"),
        (tiny().change("token_embd.weight", |one| one.claimed = Some(!31)), "no place where"),
        (tiny().change("token_embd.weight", |one| one.claimed = Some(1 << 40)), "outside the file"),
        (tiny().change("blk.0.ffn_up.weight", |one| one.name = "blk.0.ffn_down.weight".to_owned()), "twice"),
        (
            tiny().change("output_norm.weight", |one| one.bytes[..4].copy_from_slice(&[0xff; 4])),
            "numbers that are none",
        ),
        (tiny().change("token_embd.weight", |one| one.bytes.fill(0xff)), "no usable number"),
    ];
    for (gguf, words) in cases {
        let said = try_all(&gguf.bytes()).expect_err(words);
        assert!(said.contains(words), "{said:?} does not say {words:?}");
    }
    let mut twice = tiny();
    twice.values.push(("general.name".to_owned(), value(8, &text("b"))));
    assert!(try_all(&twice.bytes()).expect_err("twice").contains("twice"));
}

#[test]
fn other_files_are_told_apart() {
    let load = |bytes: &[u8]| {
        let (file, length) = file(bytes);
        Engine::load(&file, settings(length, 512, Choice::Greedy)).map(drop)
    };
    for bytes in [&b""[..], b"GG", b"not a model at all", b"PK\x03\x04", b"FUGG\0\0\0\x03"] {
        assert!(matches!(load(bytes), Err(FileError::NotGguf)), "{bytes:?}");
    }
    for version in [0_u32, 1, 4, 0x0300_0000] {
        let mut bytes = tiny().bytes();
        bytes[4..8].copy_from_slice(&version.to_le_bytes());
        assert!(matches!(load(&bytes), Err(FileError::Version(found)) if found == version));
    }
    for place in [8, 16] {
        let mut bytes = tiny().bytes();
        bytes[place..place + 8].fill(0xff);
        assert!(matches!(load(&bytes), Err(FileError::Over { .. })), "a giant count");
    }
}

#[test]
fn what_does_not_fit_the_window_is_refused_with_both_numbers() {
    let mut engine = tiny_engine(Choice::Greedy);
    let window = engine.facts().window;
    for long in [window, 64 * window] {
        let refused = engine.answer(&request("", &"a".repeat(long), vec![], 8), &patient(), &mut |_| ());
        let Err(AnswerError::Window { tokens, window: told }) = refused else {
            panic!("{long} tokens do not fit")
        };
        assert!(tokens > told && told == window - 1, "{tokens} of {told}");
    }
    let answered = engine.answer(&request("", &"a".repeat(window / 2), vec![], 8), &patient(), &mut |_| ());
    assert_eq!(answered.expect("half a window fits").usage.output_tokens.0, 8);
}
