//! A plan as people read it.

use std::fmt::Write;

use super::{GIB, Memory, Plan};

/// `plan` as text, beside GPUs of so many GiB.
pub fn table(plan: &Plan, gpus: &[f64]) -> String {
    let mut out = String::new();
    // Writing to a string does not fail.
    let _ = parts(&mut out, plan).and_then(|()| memory(&mut out, plan, gpus)).and_then(|()| step(&mut out, plan));
    out
}

/// A plan's memory in a line.
pub fn memory_line(plan: &Plan) -> String {
    let largest = plan.memory.rows().into_iter().filter(|(_, bytes)| *bytes > 0.0);
    let parts: Vec<String> = largest.map(|(name, bytes)| format!("{name} {:.2}", bytes / GIB)).collect();
    format!("{:.2} GiB ({})", plan.memory.total() / GIB, parts.join("; "))
}

/// 7505973248 as 7,505,973,248.
fn grouped(n: usize) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

fn parts(out: &mut String, plan: &Plan) -> std::fmt::Result {
    writeln!(out, "{:<32}{:>16}{:>16}", "parameters", "all", "trained")?;
    let mut sums = [0, 0];
    for part in &plan.parts {
        writeln!(out, "  {:<30}{:>16}{:>16}", part.name, grouped(part.parameters), grouped(part.trained))?;
        sums = [sums[0] + part.parameters, sums[1] + part.trained];
    }
    writeln!(out, "  {:<30}{:>16}{:>16}\n", "in all", grouped(sums[0]), grouped(sums[1]))
}

fn memory(out: &mut String, plan: &Plan, gpus: &[f64]) -> std::fmt::Result {
    let batch = &plan.micro_batch;
    let (count, target) = (batch.targets.len(), batch.targets.first().copied().unwrap_or(0));
    writeln!(
        out,
        "GiB a rank, {}; micro-batches of {:.0} s: {count} utterances of {} s and {target} target tokens",
        plan.precision, batch.seconds, plan.assumptions.utterance_seconds
    )?;
    writeln!(out, "{:<32}{:>16}{:>16}{:>16}", "layers computed again:", "as configured", "none", "all")?;
    let columns = [&plan.memory, &plan.memory_kept, &plan.memory_recomputed];
    let mut line = |name: &str, values: [f64; 3]| {
        let cells: String = values.iter().map(|bytes| format!("{:>16.2}", bytes / GIB)).collect();
        writeln!(out, "  {name:<30}{cells}")
    };
    for (i, (name, _)) in plan.memory.rows().iter().enumerate() {
        line(name, columns.map(|memory| memory.rows()[i].1))?;
    }
    line("at most at a time", columns.map(Memory::total))?;
    for gpu in gpus {
        let fits = |memory: &Memory| {
            let share = 100.0 * memory.total() / GIB / gpu;
            format!("{:>16}", if share <= 100.0 { format!("{share:.0} %") } else { format!("{share:.0} %: too much") })
        };
        writeln!(out, "  {:<30}{}", format!("of a GPU of {gpu} GiB"), columns.map(fits).concat())?;
    }
    writeln!(out)
}

fn step(out: &mut String, plan: &Plan) -> std::fmt::Result {
    let (step, assumed) = (&plan.step, &plan.assumptions);
    writeln!(out, "a step, each rank (of {})", assumed.ranks)?;
    let mut line = |name: &str, value: String| writeln!(out, "  {name:<40}{value:>16}");
    line("micro-batches", step.micro_batches.to_string())?;
    line("TFLOP, model", format!("{:.1}", step.flop / 1e12))?;
    line("TFLOP, computed again", format!("{:.1}", step.recomputed_flop / 1e12))?;
    line(&format!("s of arithmetic at {} TFLOP/s", assumed.tflops), format!("{:.3}", step.compute_seconds))?;
    line("GB all-reduced", format!("{:.2}", step.reduced_bytes / 1e9))?;
    line(&format!("s of all-reduce at {} GB/s", assumed.bandwidth), format!("{:.3}", step.reduce_seconds))?;
    line("s of it that backward does not hide", format!("{:.3}", step.exposed_seconds))?;
    line("s", format!("{:.3}", step.seconds))?;
    line("audio hours per hour", format!("{:.0}", step.audio_hours_per_hour))?;
    line("audio hours per GPU hour", format!("{:.0}", step.audio_hours_per_hour / assumed.ranks as f64))
}
