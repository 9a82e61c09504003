"""The article's models: a plain autoencoder (section 1-1), then the VAE (sections 2 and 3).

    x --encode--> z --decode--> x^
    x --encode--> q(z|x) = N(mu, sigma^2) --z = mu + eps * sigma--> z --decode--> p(x|z)

Encoder and decoder are multi-layer perceptrons of two hidden layers each. After Kingma & Welling,
"Auto-Encoding Variational Bayes" (arXiv:1312.6114), appendix C. Shapes in the comments: N digits,
D = 784 pixels, H hidden units, Z latent dimensions.
"""

from support import compat  # noqa: F401  (lets chainer import)

import chainer
from chainer import computational_graph
import chainer.functions as F
import chainer.links as L
import numpy as np
import six

from xavier import Xavier

ACTIVATIONS = {'softplus': F.softplus, 'tanh': F.tanh, 'relu': F.relu}


class Autoencoder(chainer.Chain):
    """Plain autoencoder (article, section 1-1): x -> encode -> z -> decode -> x^, without noise.

    Args:
        n_in (int): Pixels of a digit, D.
        n_latent (int): Dimensions of the latent variable z, Z.
        n_h (int): Units of each hidden layer, H.
        act_func: Activation of the hidden layers.
    """

    def __init__(self, n_in, n_latent, n_h, act_func=F.tanh):
        super().__init__()
        self.act_func = act_func
        with self.init_scope():     # a link that is assigned in here is trained and saved
            self.le1 = L.Linear(n_in, n_h, initialW=Xavier(n_in, n_h))
            self.le2 = L.Linear(n_h, n_h, initialW=Xavier(n_h, n_h))
            self.le3 = L.Linear(n_h, n_latent, initialW=Xavier(n_h, n_latent))
            self.ld1 = L.Linear(n_latent, n_h, initialW=Xavier(n_latent, n_h))
            self.ld2 = L.Linear(n_h, n_h, initialW=Xavier(n_h, n_h))
            self.ld3 = L.Linear(n_h, n_in, initialW=Xavier(n_h, n_in))

    def __call__(self, x):
        """Reconstruct digits x, (N, D) float32: x^ = decode(encode(x)), (N, D) in [0, 1]."""
        return self.decode(self.encode(x))

    def encode(self, x):
        """Return the codes z, (N, Z) float32, of digits x, (N, D) float32."""
        h1 = self.act_func(self.le1(x))                         # (N, H)
        h2 = self.act_func(self.le2(h1))                        # (N, H)
        return self.le3(h2)

    def decode(self, z):
        """Return digits, (N, D) float32, of codes z, (N, Z) float32."""
        h1 = self.act_func(self.ld1(z))                         # (N, H)
        h2 = self.act_func(self.ld2(h1))                        # (N, H)
        return F.sigmoid(self.ld3(h2))

    def get_loss_func(self, C=1.0, k=1):
        """Make the loss to minimize, the reconstruction error: mean of ||x_n - x^(x_n)||^2.

        C and k are as for the VAE and change nothing: there is no KL divergence and no noise.
        """
        def lf(x):
            x = chainer.as_variable(x)
            x.name = 'x'
            self.loss = F.sum((x - self(x)) ** 2) / len(x)
            self.loss.name = 'loss'
            chainer.report({'loss': self.loss}, self)
            return self.loss

        return lf


class VAE(chainer.Chain):
    """Variational Autoencoder of digits (article, section 2).

    To the autoencoder it adds a second head of the encoder, `le3_ln_var`, noise, and the KL
    divergence in the loss.

    Args:
        n_in (int): Pixels of a digit, D.
        n_latent (int): Dimensions of the latent variable z, Z.
        n_h (int): Units of each hidden layer, H.
        act_func: Activation of the hidden layers. The default, tanh, is that of the article's
            class; its figures come from `F.softplus`, which train_vae.py gives.
    """

    def __init__(self, n_in, n_latent, n_h, act_func=F.tanh):
        super().__init__()
        self.act_func = act_func
        with self.init_scope():
            # encoder
            self.le1 = L.Linear(n_in, n_h, initialW=Xavier(n_in, n_h))
            self.le2 = L.Linear(n_h, n_h, initialW=Xavier(n_h, n_h))
            self.le3_mu = L.Linear(n_h, n_latent, initialW=Xavier(n_h, n_latent))
            self.le3_ln_var = L.Linear(n_h, n_latent, initialW=Xavier(n_h, n_latent))
            # decoder
            self.ld1 = L.Linear(n_latent, n_h, initialW=Xavier(n_latent, n_h))
            self.ld2 = L.Linear(n_h, n_h, initialW=Xavier(n_h, n_h))
            self.ld3 = L.Linear(n_h, n_in, initialW=Xavier(n_h, n_in))

    def __call__(self, x, sigmoid=True):
        """Reconstruct digits through the mean of q(z|x), without noise.

        Args:
            x: Pixels in [0, 1], (N, D) float32, array or Variable.
            sigmoid (bool): As for `decode`.

        Returns:
            Variable: (N, D) float32, as from `decode`.
        """
        mu, _ = self.encode(x)
        return self.decode(mu, sigmoid)

    def encode(self, x):
        """Infer q(z|x) = N(mu, sigma^2): the recognition model.

        Args:
            x: Pixels in [0, 1], (N, D) float32, array or Variable.

        Returns:
            tuple of Variable: mu and ln_var = log(sigma^2), each (N, Z) float32.
        """
        x = chainer.as_variable(x)
        # a name is a label in the drawing of the graph (draw_graph), and has no other effect
        x.name = 'x'                                            # (N, D)
        h1 = self.act_func(self.le1(x))
        h1.name = 'enc_h1'                                      # (N, H)
        h2 = self.act_func(self.le2(h1))
        h2.name = 'enc_h2'                                      # (N, H)
        mu = self.le3_mu(h2)
        mu.name = 'z_mu'                                        # (N, Z)
        ln_var = self.le3_ln_var(h2)
        ln_var.name = 'z_ln_var'                                # (N, Z)
        return mu, ln_var

    def decode(self, z, sigmoid=True):
        """Map latent variables to digits: the generative model p(x|z).

        Args:
            z: Latent variables, (N, Z) float32, array or Variable.
            sigmoid (bool): False leaves out the last sigmoid.

        Returns:
            Variable: (N, D) float32: the probability y that each pixel is on, or its logit.
        """
        h1 = self.act_func(self.ld1(z))
        h1.name = 'dec_h1'                                      # (N, H)
        h2 = self.act_func(self.ld2(h1))
        h2.name = 'dec_h2'                                      # (N, H)
        h3 = self.ld3(h2)
        h3.name = 'dec_h3'                                      # (N, D)
        return F.sigmoid(h3) if sigmoid else h3

    def get_loss_func(self, C=1.0, k=1):
        """Make the loss to minimize: the negative ELBO, -L(x, z) (article, section 3).

            log p(x) >= L(x, z) = E_q[log p(x|z)] - KL[q(z|x) || p(z)],  p(z) = N(0, I)

        L(x, z) is the article's name; z is integrated out, so the value depends on x alone. The
        article gives the KL with a minus sign, as it maximizes L; here the loss is minimized.

        Args:
            C (float): Weight of the KL divergence; 1 gives the ELBO, 0 no regularization.
            k (int): Monte Carlo samples of z for each digit.

        Returns:
            callable: lf(x), of pixels (N, D) float32, returns the loss, a scalar Variable: summed
            over pixels, mean over the minibatch, in nats a digit. Each call sets `rec_loss`,
            `latent_loss` and `loss` on the model, and reports them. The noise comes from the
            global generator of NumPy or CuPy.

        Raises:
            ValueError: If k is less than 1.
        """
        if k < 1:
            raise ValueError(f'the number of Monte Carlo samples k must be 1 or more, not {k}')

        def lf(x):
            x = chainer.as_variable(x)                          # one leaf for both of its uses
            mu, ln_var = self.encode(x)
            batchsize = len(mu)
            # reconstruction error, -E_q[log p(x|z)]: its mean over k samples of z
            rec_loss = 0
            for _ in six.moves.range(k):        # Python's range; `six` is from Python 2's time
                # reparameterization trick: z = mu + eps * sigma, eps ~ N(0, I)
                z = F.gaussian(mu, ln_var)
                z.name = 'z'                                    # (N, Z)
                # -log p(x|z) = -sum_i [x_i log y_i + (1 - x_i) log(1 - y_i)]     (appendix C.1)
                # bernoulli_nll sums over pixels and digits; the division makes a mean a digit
                logits = self.decode(z, sigmoid=False)          # (N, D); y = sigmoid(logits)
                rec_loss += F.bernoulli_nll(x, logits) / (k * batchsize)
            self.rec_loss = rec_loss
            self.rec_loss.name = 'reconstruction error'
            # KL[q(z|x) || p(z)] = 1/2 sum_j [mu_j^2 + sigma_j^2 - log sigma_j^2 - 1] (appendix B)
            self.latent_loss = C * F.gaussian_kl_divergence(mu, ln_var) / batchsize
            self.latent_loss.name = 'latent loss'
            self.loss = self.rec_loss + self.latent_loss
            self.loss.name = 'loss'
            chainer.report({'rec_loss': self.rec_loss, 'latent_loss': self.latent_loss,
                            'loss': self.loss}, self)
            return self.loss

        return lf


def draw_graph(model, x, C=1.0, k=1):
    """Draw the computational graph of the loss, as the article shows it in section 2.

    Args:
        model (Chain): The model, a VAE or an Autoencoder.
        x: A minibatch of pixels, (N, 784) float32, of NumPy or CuPy as the model is.
        C (float), k (int): As for `VAE.get_loss_func`.

    Returns:
        str: The graph in Graphviz's DOT language.
    """
    with np.errstate(all='ignore'):         # the graph matters here, not the value
        loss = model.get_loss_func(C, k)(x)
    return computational_graph.build_computational_graph([loss]).dump()
