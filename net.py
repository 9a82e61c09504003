"""The Variational Autoencoder of the article (section 2), and its loss (section 3).

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


class VAE(chainer.Chain):
    """Variational Autoencoder of digits (article, section 2).

    Args:
        n_in (int): Pixels of a digit, D.
        n_latent (int): Dimensions of the latent variable z, Z.
        n_h (int): Units of each hidden layer, H.
        act_func: Activation of the hidden layers; the article's figures come from `F.softplus`.
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
            for _ in six.moves.range(k):
                # reparameterization trick: z = mu + eps * sigma, eps ~ N(0, I)
                z = F.gaussian(mu, ln_var)
                z.name = 'z'                                    # (N, Z)
                # -log p(x|z) = -sum_i [x_i log y_i + (1 - x_i) log(1 - y_i)]     (appendix C.1)
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


class Autoencoder(VAE):
    """Plain autoencoder, of the VAE's layers (article, section 1-1): z has no distribution.

    Its encoder is written out once more, as that of the VAE has a second head: edit both.

    Args:
        n_in, n_latent, n_h, act_func: As for `VAE`.
    """

    def __init__(self, n_in, n_latent, n_h, act_func=F.tanh):
        super().__init__(n_in, n_latent, n_h, act_func)
        del self.le3_ln_var

    def encode(self, x):
        """Return the code z of digits x (N, D), (N, Z) float32, and None in the place of ln_var."""
        x = chainer.as_variable(x)
        x.name = 'x'                                            # (N, D)
        h1 = self.act_func(self.le1(x))
        h1.name = 'enc_h1'                                      # (N, H)
        h2 = self.act_func(self.le2(h1))
        h2.name = 'enc_h2'                                      # (N, H)
        z = self.le3_mu(h2)
        z.name = 'z'                                            # (N, Z)
        return z, None

    def get_loss_func(self, C=1.0, k=1):
        """Make the reconstruction error to minimize: Loss = sum_n ||x_n - x^(x_n)||^2.

        Args:
            C, k: Change nothing, as there is neither a latent loss nor noise.

        Returns:
            callable: lf(x), as from `VAE.get_loss_func`: the squared error, summed over pixels,
            mean over the minibatch, which is `rec_loss`, too; `latent_loss` is 0.
        """
        def lf(x):
            x = chainer.as_variable(x)                          # one leaf for both of its uses
            self.loss = self.rec_loss = F.sum((x - self(x)) ** 2) / len(x)
            self.loss.name = 'loss'
            self.latent_loss = self.xp.zeros((), np.float32)
            chainer.report({'rec_loss': self.rec_loss, 'latent_loss': self.latent_loss,
                            'loss': self.loss}, self)
            return self.loss

        return lf


def draw_graph(model, x, C=1.0, k=1):
    """Draw the computational graph of the loss, as the article shows it in section 2.

    Args:
        model (VAE): The model.
        x: A minibatch of pixels, (N, 784) float32, of NumPy or CuPy as the model is.
        C (float), k (int): As for `VAE.get_loss_func`.

    Returns:
        str: The graph in Graphviz's DOT language.
    """
    with np.errstate(all='ignore'):         # the graph matters here, not the value
        loss = model.get_loss_func(C, k)(x)
    return computational_graph.build_computational_graph([loss]).dump()
