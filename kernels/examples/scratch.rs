use echat_kernels::gemm::{View, gemm};
use std::time::Instant;
fn main() {
    let threads: usize = std::env::args().nth(1).map_or(1, |s| s.parse().unwrap());
    rayon::ThreadPoolBuilder::new().num_threads(threads).build_global().unwrap();
    for (m, n, k) in [
        (800, 512, 128),
        (800, 128, 512),
        (800, 128, 128),
        (10000, 64, 192),
        (3000, 512, 128),
        (1500, 64, 10),
        (128, 512, 800),
        (512, 128, 3000),
        (2048, 1024, 1024),
    ] {
        let a: Vec<f32> = (0..m * k).map(|i| (i % 17) as f32).collect();
        let b: Vec<f32> = (0..n * k).map(|i| (i % 13) as f32).collect();
        let mut c = vec![0.0; m * n];
        let mut line = format!("{m:5} {n:5} {k:5}");
        let av = View::rows(&a, k);
        let at = View::rows(&a, m).t();
        let bv = View::rows(&b, n);
        let bt = View::rows(&b, k).t();
        for (name, a, b) in [("nn", av, bv), ("nt", av, bt), ("tn", at, bv)] {
            let mut best = f64::MAX;
            for _ in 0..30 {
                let t = Instant::now();
                gemm(m, n, k, a, b, &mut c, n, false);
                best = best.min(t.elapsed().as_secs_f64());
            }
            line += &format!("  {name} {:6.0}us {:4.0}GF/s", best * 1e6, 2.0 * (m * n * k) as f64 / best / 1e9);
        }
        println!("{line}");
    }
}
