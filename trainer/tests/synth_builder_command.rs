//! The corpus builder with local programs for voices: shell scripts here, espeak-ng where it is installed (Debian package espeak-ng, as
//! `launch/test` installs it).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

#[path = "common/builder.rs"]
mod builder;
#[path = "common/server.rs"]
mod server;

use builder::Site;
use server::{Server, tone, wav};

/// Ten texts with responses, and a recording `voice.wav` that suits each of them; `run` speaks.
fn site(run: &str, more: &str) -> Site {
    let site = Site::new("http://127.0.0.1:9", 0);
    let lines = (0..10).map(|i| format!("q{i}\t第{i}句话说给你听\t{}\t好\n", builder::EMOTIONS[i % 5]));
    site.write("texts.tsv", &format!("id\ttext\temotion\tresponse\n{}", lines.collect::<String>()));
    std::fs::write(site.path("voice.wav"), wav(&tone("第一句话说给你听"))).unwrap();
    site.write(
        "synth.toml",
        &format!(
            "[texts]\nfiles = ['texts.tsv']\n[split]\nshares = {{ test = 0.5 }}\n[limits]\ntries = 2\nbackoff_seconds = 0.01\n\
             [speech]\nbackend = 'command'\ntimeout_seconds = 5\n[speech.command]\nrun = {run}\n{more}\n"
        ),
    );
    site
}

const COPY: &str = r#"["sh", "-c", 'echo "$0|$1|$2|$4-$5-$6" >> said.txt; cp voice.wav "$3"', "{text}", "{emotion}", "{voice}", "{out}", "{style}"]"#;

#[test]
fn a_program_is_run_for_each_text_with_its_voice_and_style() {
    let site = site(COPY, "voices = ['a', 'b', 'c']\nstyles = { sad = 'slow and low' }");
    let said = site.run("out", &[]);
    assert!(said.good().contains("train          3 speakers"), "{said:?}");
    assert!(!said.stdout.contains("paid for"), "{said:?}");
    let spoken = std::fs::read_to_string(site.path("said.txt")).unwrap();
    assert_eq!(spoken.lines().count(), 10);
    let sad: Vec<&str> = spoken.lines().find(|line| line.contains("|sad|")).unwrap().split('|').collect();
    assert!(sad[0] == "第3句话说给你听" && ["a", "b", "c"].contains(&sad[2]) && sad[3] == "slow-and-low", "{sad:?}");
    assert!(spoken.lines().any(|line| line.contains("|angry|") && line.ends_with("|--")), "{spoken}");
    let lines = site.lines("out", "test.jsonl");
    assert_eq!((lines.len(), &lines[0]["response"]), (5, &"好".into()));
}

#[test]
fn a_missing_program_is_named() {
    let said = site(r#"["/nowhere/tts", "{text}", "{out}"]"#, "").run("out", &[]);
    let wanted = "error: cannot run /nowhere/tts: No such file or directory (os error 2); install it, or change `speech.command.run`";
    assert_eq!(said.error(), wanted);
}

#[test]
fn a_program_that_fails_or_writes_nothing_is_tried_again_and_then_said() {
    let cases = [
        (
            r#"["sh", "-c", "echo first >&2; echo no voice >&2; exit 3", "{text}", "{out}"]"#,
            "the program failed (exit status: 3): no voice (try 2 of 2)",
        ),
        (r#"["true", "{text}", "{out}"]"#, "the program wrote no file (try 2 of 2)"),
        (r#"["sh", "-c", 'echo nonsense > "$0"', "{out}", "{text}"]"#, "what it gave is no recording: not decodable"),
        (
            r#"["sh", "-c", ': > "$0"', "{out}", "{text}"]"#,
            "what it gave is no recording: the file is empty (0 bytes) (try 2 of 2)",
        ),
    ];
    for (run, wanted) in cases {
        let said = site(run, "").run("out", &[]);
        assert!(
            said.error().contains("1 of 10 texts have no recording") && said.error().contains(wanted),
            "{wanted}: {said:?}"
        );
    }
    let said = site(r#"["sleep", "60", "{text}", "{out}"]"#, "").run("out", &["--set", "speech.timeout_seconds=0.2"]);
    assert!(said.error().contains("the program failed") || said.error().contains("ran longer than 0.2 s"), "{said:?}");
}

#[test]
fn a_program_that_hangs_is_stopped() {
    let said = site(r#"["sh", "-c", "exec sleep 60", "{text}", "{out}"]"#, "")
        .run("out", &["--set", "speech.timeout_seconds=0.2"]);
    assert!(said.error().contains("the program ran longer than 0.2 s (try 2 of 2)"), "{said:?}");
}

#[test]
fn keys_are_not_handed_to_programs() {
    let site = site(r#"["sh", "-c", 'env >> env.txt; cp voice.wav "$0"', "{out}", "{text}"]"#, "");
    site.run("out", &["--set", "speech.concurrency=1"]).good();
    let seen = std::fs::read_to_string(site.path("env.txt")).unwrap();
    assert!(seen.contains("PATH=") && !seen.contains(builder::SPEECH_KEY), "{seen}");
}

/// Answers each job with what `answer` (shell) prints, `$id` and `$out` being the job's.
fn staying(answer: &str) -> Site {
    let site = site("['sh', 'voice.sh']", "persistent = true");
    let script = format!(
        "echo started >> starts.txt\nwhile read -r line; do\n  id=$(echo \"$line\" | sed 's/.*\"id\":\"\\([^\"]*\\)\".*/\\1/')\n  \
         out=$(echo \"$line\" | sed 's/.*\"out\":\"\\([^\"]*\\)\".*/\\1/')\n  {answer}\ndone\n"
    );
    site.write("voice.sh", &script);
    site
}

const FINE: &str = "cp voice.wav \"$out\"; echo \"{\\\"id\\\":\\\"$id\\\",\\\"error\\\":null}\"";

#[test]
fn a_program_that_stays_is_started_once_for_each_thread() {
    let site = staying(FINE);
    site.run("out", &["--set", "speech.concurrency=2"]).good();
    assert_eq!(std::fs::read_to_string(site.path("starts.txt")).unwrap().lines().count(), 2);
    assert_eq!(site.lines("out", "test.jsonl").len(), 5);
}

#[test]
fn a_program_that_stays_and_fails_is_said_and_started_again() {
    let cases = [
        (
            "echo \"{\\\"id\\\":\\\"$id\\\",\\\"error\\\":\\\"no such voice\\\"}\"",
            "the program says: no such voice (try 2 of 2)",
        ),
        ("echo \"{\\\"id\\\":\\\"$id\\\",\\\"error\\\":null}\"", "the program wrote no file (try 2 of 2)"),
        (
            "echo \"{\\\"id\\\":\\\"other\\\",\\\"error\\\":null}\"",
            "the program answered `{\"id\":\"other\",\"error\":null}` (try 2 of 2)",
        ),
        ("echo gone >&2; exit 1", "the program ended: gone (try 2 of 2)"),
        ("exec sleep 60", "the program gave no answer within 0.3 s (try 2 of 2)"),
    ];
    for (answer, wanted) in cases {
        let said = staying(answer).run("out", &["--set", "speech.timeout_seconds=0.3"]);
        assert!(said.error().contains(wanted), "{wanted}: {said:?}");
    }
    // One that dies at its fourth job is replaced, and the corpus is whole.
    let site = staying(&format!("n=$((n + 1)); [ $n -lt 4 ] || exit 1; {FINE}"));
    site.run("out", &["--set", "speech.concurrency=1"]).good();
    assert_eq!(std::fs::read_to_string(site.path("starts.txt")).unwrap().lines().count(), 4);
}

#[test]
fn espeak_speaks_by_a_template_of_one_line() {
    let run = r#"["espeak-ng", "-v", "cmn-latn-pinyin+{voice}", "{style}", "-w", "{out}", "{text}"]"#;
    let site = site(run, "voices = ['f2', 'm3']\nstyles = { sad = '-s 120 -p 20', cheerful = '-s 200 -p 70' }");
    site.run("out", &[]).good();
    let all = ["train", "test"].map(|part| site.lines("out", &format!("{part}.jsonl"))).concat();
    let seconds = |emotion: &str| {
        let of: Vec<f64> =
            all.iter().filter(|l| l["emotion"] == emotion).map(|l| l["duration"].as_f64().unwrap()).collect();
        of.iter().sum::<f64>() / of.len() as f64
    };
    assert!(all.len() == 10 && seconds("sad") > 1.3 * seconds("cheerful"), "{all:?}");
}

#[test]
fn responses_of_a_server_go_with_speech_of_a_program() {
    let server = Server::good();
    let site = site(COPY, "");
    site.write("texts.tsv", "text\temotion\n第一句话\tsad\n第二句话\tangry\n");
    let config = std::fs::read_to_string(site.path("synth.toml")).unwrap();
    site.write("synth.toml", &format!("{config}\n[chat]\nbase_url = '{}/v1'\n", server.url));
    site.run("out", &[]).good();
    assert_eq!(server.asked().len(), 2);
    assert_eq!(site.lines("out", "test.jsonl")[0]["response"].as_str().unwrap().split('：').next(), Some("我听见了"));
}
