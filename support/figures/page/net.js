'use strict';
// The VAE of net.py in the browser, with the weights of the run. Names are net.py's; arrays are
// Float32Array, W (n_out, n_in) row by row. D = 784 pixels, H hidden units, Z latent dimensions.

const ACTIVATIONS = {
  softplus: (a) => Math.max(a, 0) + Math.log1p(Math.exp(-Math.abs(a))),
  tanh: Math.tanh,
  relu: (a) => Math.max(a, 0),
};
const sigmoid = (a) => 1 / (1 + Math.exp(-a));

function linear({W, b}, x) {
  const y = new Float32Array(b), n = x.length, even = n - n % 4;
  for (let i = 0, row = 0; i < y.length; i++, row += n) {
    let s0 = 0, s1 = 0, s2 = 0, s3 = 0;         // four sums, as one would wait for each addition
    for (let j = 0; j < even; j += 4) {
      s0 += W[row + j] * x[j];
      s1 += W[row + j + 1] * x[j + 1];
      s2 += W[row + j + 2] * x[j + 2];
      s3 += W[row + j + 3] * x[j + 3];
    }
    for (let j = even; j < n; j++) s0 += W[row + j] * x[j];
    y[i] += s0 + s1 + s2 + s3;
  }
  return y;
}

class VAE {
  constructor(links, activation) {
    Object.assign(this, links);                       // le1 le2 le3_mu le3_ln_var ld1 ld2 ld3
    this.act_func = ACTIVATIONS[activation];
    this.Z = this.le3_mu.b.length;
  }

  // q(z|x) = N(mu, sigma^2) of a digit x (D)
  encode(x) {
    const h1 = linear(this.le1, x).map(this.act_func);          // (H)
    const h2 = linear(this.le2, h1).map(this.act_func);         // (H)
    return {h1, h2, mu: linear(this.le3_mu, h2), ln_var: linear(this.le3_ln_var, h2)};  // (Z) each
  }

  // p(x|z) of a latent variable z (Z): the probability y that each pixel is on, and its logit h3
  decode(z) {
    const h1 = linear(this.ld1, z).map(this.act_func);          // (H)
    const h2 = linear(this.ld2, h1).map(this.act_func);         // (H)
    const h3 = linear(this.ld3, h2);                            // (D)
    return {h1, h2, h3, y: h3.map(sigmoid)};
  }
}

// reparameterization trick: z = mu + eps * sigma
function reparameterize({mu, ln_var}, eps) {
  return mu.map((m, j) => m + eps[j] * Math.exp(ln_var[j] / 2));
}

// -log p(x|z) = -sum_i [x_i log y_i + (1 - x_i) log(1 - y_i)], of logits
function bernoulli_nll(x, logits) {
  return logits.reduce((sum, l, i) => sum + ACTIVATIONS.softplus(l) - x[i] * l, 0);
}

// KL[q(z|x) || p(z)] of each dimension, 1/2 [mu_j^2 + sigma_j^2 - log sigma_j^2 - 1]
function kl_divergence({mu, ln_var}) {
  return mu.map((m, j) => (m * m + Math.exp(ln_var[j]) - ln_var[j] - 1) / 2);
}

// eps ~ N(0, I), (n), by Box and Muller; the same each time the page starts
let seed = 1;
function uniform() {                                            // mulberry32
  seed = (seed + 0x6d2b79f5) | 0;
  let a = Math.imul(seed ^ (seed >>> 15), 1 | seed);
  a = (a + Math.imul(a ^ (a >>> 7), 61 | a)) ^ a;
  return ((a ^ (a >>> 14)) >>> 0) / 4294967296;
}
function gaussian(n) {
  return Float32Array.from({length: n}, () =>
    Math.sqrt(-2 * Math.log(1 - uniform())) * Math.cos(2 * Math.PI * uniform()));
}

// What Python packed: base64 of deflated bytes
async function unpack(id) {
  const text = atob(document.getElementById(id).textContent);
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream('deflate'));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

// n float16 numbers from `start`; first come the low bytes of all, then the high ones
function halves(bytes, start, n, scale) {
  const half = bytes.length / 2;
  return Float32Array.from({length: n}, (_, i) => {
    const low = bytes[start + i], high = bytes[half + start + i];
    const exponent = (high >> 2) & 31, fraction = ((high & 3) << 8) | low;
    const size = exponent ? (1024 + fraction) * 2 ** (exponent - 25) : fraction * 2 ** -24;
    return (high & 128 ? -size : size) * scale;
  });
}
