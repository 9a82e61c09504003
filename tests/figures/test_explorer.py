"""explorer.html, in a real Chromium: what the page computes and shows, beside net.py."""

import json
import re
import time

from support.data import mnist  # lets chainer import
from support.figures import evidence, explorer, pictures
from support.run import record
from support.run.settings import Settings

import chainer.functions as F
from conftest import make_digits, open_chromium
import numpy as np
import pytest

import net

pytestmark = pytest.mark.usefixtures('one_thread')

ARTICLE = 'https://qiita.com/kenmatsu4/items/b029d697e9995d93aa24'
FLAGS = ('--disable-gpu', '--disable-quic', '--disable-background-networking',
         '--disable-component-update', '--disable-sync', '--window-size=1200,900',
         '--host-resolver-rules=MAP * ~NOTFOUND')


@pytest.fixture
def make(tmp_path):
    """Return a function that writes the page of a new model: the path, the model, its digits."""
    def run(dims, act_func=F.softplus, dim_h=12, n=40, scale=1.0, name='run', **settings):
        np.random.seed(3)
        model = net.VAE(784, dims, dim_h, act_func)
        for param in model.params():
            param.array *= scale
        images, labels = make_digits(n, 0)
        digits = mnist.Digits('digits', 'mnist', None, '', None, None,
                              images.reshape(n, 784).astype(np.float32) / 255, labels)
        (tmp_path / name).mkdir(exist_ok=True)
        path = tmp_path / name / 'explorer.html'
        explorer.save(model, digits, str(path), vars(Settings(
            n_in=784, dim_z=dims, dim_h=dim_h, dataset='mnist', kl_weight=1.0)) | {
            'path': 'snapshot_epoch_2', 'epochs_done': 2, 'log': []} | settings)
        return path, model, digits
    return run


def about(path):
    """Return the JSON of a page."""
    return json.loads(re.search(r'<script type="application/json" id="run">(.*?)</script>',
                                path.read_text('utf-8'))[1])


def test_the_page_is_a_figure_like_any_other(draw, finished, tmp_path):
    status, out, err = draw('explorer', '-s', finished / 'snapshot_epoch_2', '-o', tmp_path / 'out')
    assert (status, out, err) == (0, f'{tmp_path / "out" / "explorer.html"}\n', '')
    path = tmp_path / 'out' / 'explorer.html'
    text = path.read_text('utf-8')
    assert '{{' not in text
    assert re.findall(r'(?:src|href)="(?!data:)(.*?)"', text) == [ARTICLE]    # to be clicked
    assert not re.search(r'https?://|url\(|@import|fetch\(', text.replace(ARTICLE, ''))
    page = about(path)
    assert [row[0] for row in page['log']] == [1, 2]
    assert page['settings'][-1] == ['snapshot', 'snapshot_epoch_2']
    assert str(finished) not in text                    # it may be passed on


def test_a_variable_stands_beside_its_lines_of_net_py():
    with open(net.__file__, encoding='utf-8') as file:
        lines = [re.sub(r' +', ' ', line.strip()) for line in file]
    source = explorer.source()
    assert set(source) == {
        'x', 'enc_h1', 'enc_h2', 'z_mu', 'z_ln_var', 'z', 'dec_h1', 'dec_h2', 'dec_h3',
        'reconstruction error', 'latent loss', 'loss'}
    for name, of in source.items():
        text = [re.sub(r' +', ' ', line.strip()) for line in of['text'].splitlines()]
        assert lines[of['line'] - 1:of['line'] - 1 + len(text)] == text
        assert text[-1].partition('.name')[2].startswith(f" = '{name}'")
    assert 'F.gaussian(mu, ln_var)' in source['z']['text']


def test_curves_leave_out_what_is_no_number(make):
    def curves(row, beta):
        return about(make(2, log=[row, *others, {}], kl_weight=beta)[0])['log']

    row = {'epoch': 1, 'main/rec_loss': 3.0, 'main/latent_loss': 8.0, 'validation/main/loss': 2}
    others = [row | {'main/rec_loss': value} for value in ('x', None)]
    assert curves(row, 4.0) == [[1, 5.0, 2]]                        # 8 is 4 times the KL
    for unknown in (0.0, None):             # of which the log does not tell the KL
        assert curves(row, unknown) == []


def test_what_the_page_does_not_compute_is_not_shown(make, monkeypatch, tmp_path):
    class Louder(net.VAE):
        def decode(self, z, sigmoid=True):
            return super().decode(2 * z, sigmoid)

    monkeypatch.setattr(net, 'VAE', Louder)
    with pytest.raises(pictures.FigureError, match=r'and Louder\.decode is edited'):
        make(2)
    monkeypatch.undo()
    with pytest.raises(pictures.FigureError, match='its activation is elu'):
        make(2, F.elu)
    assert not list(tmp_path.glob('run/*'))


@pytest.fixture(scope='module')
def chromium():
    """Return Chromium without a network."""
    with open_chromium(*FLAGS) as chrome:
        chrome.set_script_timeout(30)
        yield chrome


@pytest.fixture
def visit(chromium):
    """Return a function that opens a page and waits for it; it must not complain, or ask."""
    def run(path, link=''):
        chromium.get(path.as_uri() + link)
        settle(chromium)
        visited.append(path.as_uri())
        return chromium

    visited = []
    chromium.get('about:blank')
    for log in ('browser', 'performance'):
        chromium.get_log(log)                                       # of an earlier test
    yield run
    assert [entry for entry in chromium.get_log('browser')
            if 'getImageData' not in entry['message']] == []        # which the tests read with
    for entry in chromium.get_log('performance'):
        message = json.loads(entry['message'])['message']
        if message['method'] == 'Network.requestWillBeSent':
            address = message['params']['request']['url'].partition('#')[0]
            assert address in visited or address.startswith(('data:', 'blob:')), address


def settle(chrome):
    """Wait until the page has started and drawn what it was asked to."""
    assert chrome.execute_async_script(
        'const done = arguments[0], end = Date.now() + 20000;'
        'const ready = () => typeof state !== "undefined" && state.z && !waiting.size;'
        'const look = () => (ready() ?'
        ' requestAnimationFrame(() => requestAnimationFrame(() => done())) :'
        ' Date.now() > end ? done("late") : setTimeout(look, 20));'
        'look();') is None, 'the page is not ready after 20 s'


def numbers(chrome, script):
    """Return what JavaScript says, as an array; typed arrays in it become lists."""
    return np.array(chrome.execute_script(
        f'const plain = (v) => ArrayBuffer.isView(v) || Array.isArray(v) ? [...v].map(plain) : v;'
        f'return plain({script})'))


def check(chrome, script, wanted, error=0):
    """Make sure that JavaScript gives these numbers."""
    np.testing.assert_allclose(numbers(chrome, script), wanted, atol=error)


def pixels_of(chrome, canvas):
    """Return the red channel of a canvas, (height, width) in [0, 1]."""
    return numbers(chrome, f'(() => {{ const c = $("{canvas}"), n = c.width;'
                   f'const d = c.getContext("2d").getImageData(0, 0, n, c.height).data;'
                   f'return Array.from({{length: c.height}}, (_, y) =>'
                   f'Array.from({{length: n}}, (_, x) => d[4 * (y * n + x)])) }})()') / 255


def read(chrome, selector):
    return chrome.find_element('css selector', selector).text


def said(chrome, selector):
    """Return the numbers with decimals in the text of an element."""
    text = read(chrome, selector).replace('\N{MINUS SIGN}', '-')
    return [float(number) for number in re.findall(r'-?\d+\.\d+', text)]


def click(chrome, selector):
    chrome.execute_script('arguments[0].click()', chrome.find_element('css selector', selector))
    settle(chrome)


def press(chrome, selector, *keys):
    from selenium.webdriver.common.keys import Keys
    chrome.find_element('css selector', selector).send_keys(
        *(getattr(Keys, key) for key in keys))
    settle(chrome)


def drag(chrome, selector, *points, device='mouse'):
    """Press a pointer at the first of points, shares of an element's size, and draw to the rest."""
    from selenium.webdriver.common.actions.action_builder import ActionBuilder
    from selenium.webdriver.common.actions.pointer_input import PointerInput
    element = chrome.find_element('css selector', selector)
    chrome.execute_script('arguments[0].scrollIntoView({block: "center"})', element)
    box = element.rect
    actions = ActionBuilder(chrome, PointerInput(device, f'a {device}'), duration=20)
    for i, (x, y) in enumerate(points):
        actions.pointer_action.move_to(
            element, round((x - 0.5) * box['width']), round((y - 0.5) * box['height']))
        if i == 0:
            actions.pointer_action.pointer_down()
    actions.pointer_action.pointer_up()
    actions.perform()
    settle(chrome)


@pytest.mark.parametrize('dims, act_func, dim_h', [
    (1, F.tanh, 12), (3, F.relu, 30), (20, F.softplus, 500)])
def test_encoder_and_decoder_are_those_of_net_py(make, visit, dims, act_func, dim_h):
    path, model, digits = make(dims, act_func, dim_h, scale=1.5)
    chrome = visit(path)
    for z in np.random.RandomState(0).normal(size=(5, dims)).astype(np.float32):
        decoded = numbers(chrome, f'vae.decode(Float32Array.from({z.tolist()})).y')
        np.testing.assert_allclose(decoded, model.decode(z[None]).array[0], atol=2e-3)
    mu, ln_var = (variable.array for variable in model.encode(digits.test))
    for i in range(5):
        chrome.execute_script(f'setTestDigit({i})')
        check(chrome, 'state.x', digits.test[i], 1e-7)
        check(chrome, 'state.q.mu', mu[i], 1e-2)
        check(chrome, 'state.q.ln_var', ln_var[i], 1e-2)
    check(chrome, 'codes', mu, 1e-2)
    settle(chrome)
    # what is on the screen: the digit at z, the input, and the numbers beside them
    np.testing.assert_allclose(pixels_of(chrome, 'x').ravel(), digits.test[4], atol=0.003)
    shown = numbers(chrome, 'state.z')
    np.testing.assert_allclose(pixels_of(chrome, 'digit').ravel(), model.decode(
        shown[None].astype(np.float32)).array[0], atol=0.005)
    np.testing.assert_allclose(said(chrome, '#z'), shown, atol=0.0051)


@pytest.mark.parametrize('dims', [1, 20])
def test_the_terms_of_the_loss_are_those_of_get_loss_func(make, visit, monkeypatch, dims):
    path, model, digits = make(dims, scale=1.2)
    chrome = visit(path, '#digit=7')
    eps = iter(numbers(chrome, 'noise').astype(np.float32))
    monkeypatch.setattr(F, 'gaussian', lambda mu, ln_var: mu + next(eps) * F.exp(ln_var / 2))
    model.get_loss_func(k=10)(digits.test[7:8])
    for cell, wanted in (('rec', model.rec_loss), ('kl', model.latent_loss), ('total', model.loss)):
        assert said(chrome, f'#{cell}') == [pytest.approx(float(wanted.array), abs=0.1, rel=1e-3)]
    mu, ln_var = evidence.infer(model, digits.test)
    wanted = evidence.kl_to_prior(mu, ln_var)
    check(chrome, 'kl_divergence(state.q)', wanted[7], 1e-2)
    check(chrome, 'run.kl', wanted.mean(axis=0), 1e-9)
    # a draw, in the plane and in the graph
    click(chrome, '#draw-z')
    eps = numbers(chrome, 'state.eps')
    z = mu[7] + eps * np.exp(ln_var[7] / 2)
    check(chrome, 'state.z', z, 0.02)
    assert numbers(chrome, 'state.drawn').shape == (2, dims)        # one from the start
    click(chrome, '[data-node="enc_h1"]')
    assert 'f is softplus' in read(chrome, '#node-says')
    click(chrome, '[data-node="z"]')
    np.testing.assert_allclose(said(chrome, '#node-numbers'), z, atol=0.02)
    assert 'z = F.gaussian(mu, ln_var)' in read(chrome, '#node-code')


@pytest.mark.parametrize('device', ['mouse', 'touch'])
def test_a_drawn_digit_moves_the_ellipse(make, visit, device):
    path, model, _ = make(2, scale=1.5)
    chrome = visit(path, '#digit=7')
    before = pixels_of(chrome, 'x')
    drag(chrome, '#pad', (0.2, 0.1), (0.3, 0.4), (0.35, 0.6), device=device)
    x = numbers(chrome, 'state.x').astype(np.float32)
    assert (x > 0.5).sum() > 15
    assert np.abs(pixels_of(chrome, 'x') - before).max() > 0.5
    np.testing.assert_allclose(pixels_of(chrome, 'x').ravel(), x, atol=0.003)
    mu, ln_var = model.encode(x[None])
    check(chrome, 'plane.project(state.q.mu)', mu.array[0], 1e-2)
    np.testing.assert_allclose(numbers(chrome, 'plane.covariance(state.q)'),
                               np.diag(np.exp(ln_var.array[0])), atol=1e-2)
    assert chrome.execute_script('return $("index").value') == ''
    one = x.copy()
    drag(chrome, '#pad', (0.7, 0.2), (0.7, 0.8), device=device)
    assert np.abs(numbers(chrome, 'state.x') - one).max() > 0.5
    click(chrome, '#undo')
    check(chrome, 'state.x', one)
    click(chrome, '#eraser')
    drag(chrome, '#pad', (0.2, 0.1), (0.25, 0.25), device=device)
    assert not np.array_equal(numbers(chrome, 'state.x'), one)
    click(chrome, '#clear')
    assert chrome.execute_script('return state.index') == 7


def test_a_drawing_is_brought_to_the_form_of_mnist(make, visit):
    chrome = visit(make(2)[0])
    picture = np.zeros((280, 280))      # a tall bar far from the middle, heavier below
    picture[20:220, 30:60] = picture[180:220, 30:110] = 1
    chrome.execute_script('window.found = asMnist(Float32Array.from(arguments[0]), 280)',
                          picture.ravel().tolist())
    x = numbers(chrome, 'found').reshape(28, 28)
    rows, columns = np.nonzero(x > 0.02)
    assert np.ptp(rows) + 1 in (20, 21)                             # 200 pixels to 20
    assert np.ptp(columns) + 1 in (8, 9)
    middle = np.arange(28) + 0.5
    centre = [(x.sum(axis=axis) @ middle) / x.sum() for axis in (0, 1)]
    assert centre == pytest.approx([14, 14], abs=0.1)
    assert x.sum() == pytest.approx(picture.sum() / 100, rel=0.03)
    assert ((x > 0.1) & (x < 0.9)).any()                            # gray edges
    assert chrome.execute_script('return asMnist(new Float32Array(280 ** 2), 280)') is None


def test_the_plane_follows_pointer_and_keys(make, visit):
    path, *_ = make(2, scale=1.5)
    chrome = visit(path)
    limit = float(numbers(chrome, 'plane.limit'))
    canvas = '#plane canvas + canvas'
    drag(chrome, canvas, (0.9, 0.5), (0.75, 0.25))
    z = numbers(chrome, 'state.z')
    np.testing.assert_allclose(z, [limit / 2, limit / 2], atol=0.02 * limit)
    press(chrome, canvas, 'ARROW_LEFT', 'ARROW_DOWN', 'ARROW_DOWN')
    check(chrome, 'state.z', z - [0.1, 0.2], 1e-5)
    # Enter puts in the digit of the nearest dot
    codes = numbers(chrome, 'codes')
    nearest = ((codes - numbers(chrome, 'state.z')) ** 2).sum(axis=1).argmin()
    press(chrome, canvas, 'ENTER')
    assert chrome.execute_script('return state.index') == nearest
    # so does a click on it
    place = numbers(chrome, 'plane.toScreen(plane.points[3]).map((p) => p / plane.side)')
    drag(chrome, canvas, place)
    found = chrome.execute_script('return state.index')
    np.testing.assert_allclose(codes[found], codes[3], atol=0.05)


def test_on_a_plane_of_many_dimensions_the_rest_stays(make, visit):
    path, *_ = make(20, scale=1.5)
    chrome = visit(path, '#digit=4')
    base, rows = numbers(chrome, 'state.z'), np.array(about(path)['components'])
    np.testing.assert_allclose(rows @ rows.T, np.eye(2), atol=1e-5)
    drag(chrome, '#plane canvas + canvas', (0.6, 0.5), (0.7, 0.4))
    z = numbers(chrome, 'state.z')
    assert np.abs(rows @ (z - base)).max() > 0.1
    rest = (z - base) - (z - base) @ rows.T @ rows
    np.testing.assert_allclose(rest, 0, atol=1e-4)
    chrome.execute_script('setAxes([2, 11])')
    base = z
    settle(chrome)
    assert said(chrome, '#where')[1:] == pytest.approx(z[[2, 11]], abs=0.0051)
    drag(chrome, '#plane canvas + canvas', (0.6, 0.5), (0.75, 0.25))
    z, limit = numbers(chrome, 'state.z'), float(numbers(chrome, 'plane.limit'))
    np.testing.assert_allclose(z[[2, 11]], limit / 2, atol=0.02 * limit)
    np.testing.assert_allclose(np.delete(z, [2, 11]), np.delete(base, [2, 11]), atol=1e-5)


def test_sliders_walk_and_prior_move_z(make, visit):
    path, model, _ = make(3, scale=1.5)
    chrome = visit(path)
    order = [int(slider.get_attribute('data-dimension'))
             for slider in chrome.find_elements('css selector', '.sliders input')]
    assert order == np.argsort(-np.array(about(path)['kl']), kind='stable').tolist()
    z = numbers(chrome, 'state.z')
    press(chrome, f'.sliders input[data-dimension="{order[1]}"]', 'HOME')
    z[order[1]] = -4
    check(chrome, 'state.z', z, 1e-6)
    click(chrome, '#from')
    chrome.execute_script('setPoint([1, -1, 0.5])')
    click(chrome, '#to')
    chrome.execute_script('$("t").value = 0.25; $("t").dispatchEvent(new Event("input"))')
    settle(chrome)
    check(chrome, 'state.z', 0.75 * z + [0.25, -0.25, 0.125], 1e-5)
    check(chrome, 'walkSheet.zs', np.linspace(z, [1, -1, 0.5], 11), 1e-5)
    press(chrome, '#prior canvas', 'ARROW_RIGHT', 'ARROW_RIGHT', 'ARROW_DOWN')
    samples = numbers(chrome, 'priorSheet.zs')
    assert samples.shape == (100, 3)
    check(chrome, 'state.z', samples[21], 1e-6)
    tile = numbers(chrome, '[...priorSheet.canvas.getContext("2d").getImageData(28, 28, 28, 28)'
                   '.data].filter((_, i) => i % 4 === 0)') / 255
    wanted = model.decode(samples[21:22].astype(np.float32)).array[0]
    np.testing.assert_allclose(tile, wanted, atol=0.005)
    chrome.execute_script('$("play").click()')
    before = numbers(chrome, 'state.z')
    time.sleep(0.3)
    assert np.abs(numbers(chrome, 'state.z') - before).max() > 0


def test_whatever_sets_z_ends_the_walk(make, visit):
    chrome = visit(make(2)[0])
    for button in ('play', 'to-origin', 'to-code', 'draw-z', 'random'):
        chrome.execute_script(f'$("play").click(); $("{button}").click()')
        before = numbers(chrome, 'state.z')
        time.sleep(0.1)
        check(chrome, 'state.z', before)
        assert chrome.execute_script('return $("play").textContent') == 'play'


def test_a_typed_digit_is_one_that_there_is_and_a_press_counts_after_it(make, visit):
    chrome = visit(make(2)[0])
    field = chrome.find_element('css selector', '#index')
    for typed, index in (('7', 7), ('99', 39)):
        chrome.execute_script('$("index").select()')
        field.send_keys(typed, '\n')
        settle(chrome)
        check(chrome, '[state.index, Number($("index").value)]', [index, index])
    field.send_keys('7')
    drag(chrome, '#pad', (0.1, 0.2), (0.2, 0.8))
    assert chrome.execute_script('return state.index') is None      # it was drawn


def test_the_legend_hides_and_shows_a_class(make, visit):
    chrome = visit(make(2, scale=2.0)[0])
    button = chrome.find_element('css selector', '#legend button:nth-child(4)')
    assert button.text == '3'
    of_three = (            # pixels of its colour
        '(({back}, c) => back.getContext("2d").getImageData(0, 0, back.width, back.height).data'
        '.filter((_, i, d) => i % 4 === 0 && c.every((v, j) => d[i + j] === v)).length)'
        '(plane, plane.colorOf(3).match(/\\w\\w/g).map((pair) => parseInt(pair, 16)))')
    seen = [numbers(chrome, of_three) > 10]
    for selector in ('#legend button:nth-child(4)', '#all-classes', '#all-classes'):
        click(chrome, selector)
        seen.append(numbers(chrome, of_three) > 10)
    assert (seen, button.get_attribute('aria-pressed')) == ([True, False, True, False], 'false')
    click(chrome, '#map')
    assert numbers(chrome, 'plane.mapCanvas.width') == 560


@pytest.mark.parametrize('dims', [2, 20])
def test_a_link_holds_the_state(make, visit, dims):
    path, *_ = make(dims)
    z = np.round(np.linspace(-1, 1, dims), 4)
    axes = '&axes=4,9' if dims > 2 else ''
    chrome = visit(path, f'#z={",".join(map(str, z))}&digit=5{axes}')
    check(chrome, 'state.z', z, 1e-6)
    assert chrome.execute_script('return [state.index, plane.axes]') == [
        5, [4, 9] if axes else [0, 1]]
    chrome.execute_script(f'setPoint(Array({dims}).fill(0.5))')
    settle(chrome)
    time.sleep(0.4)
    link = chrome.execute_script('return location.hash')
    assert link == f'#z={",".join(["0.5"] * dims)}&digit=5{axes}'
    for bad in (f'#z={",".join(["1e300"] * dims)}', '#digit=999&axes=0,0', '#%E0%A4%A'):
        visit(path, bad)
        assert chrome.execute_script('return [state.index, $("trouble").hidden]') == [0, True]
        check(chrome, 'state.z', numbers(chrome, 'state.q.mu'))


def test_a_hostile_name_stays_text(make, visit):
    name = '<img src=x onerror=document.title=1><!--<script>'
    path, *_ = make(2, name=name, data_dir=f'/data/{name}', path=f'/a/{name}')
    chrome = visit(path)
    for text in (chrome.title, read(chrome, '#settings'), read(chrome, '#about')):
        assert name in text
    assert chrome.execute_script('return document.images.length') == 0
    visit(make(2, name='run', path='/a/\udcff')[0])                # no UTF-8; it starts


def test_a_phone_has_nothing_to_scroll_sideways(make, visit, chromium, draw, finished, tmp_path):
    assert draw('explorer', '-s', finished / 'snapshot_epoch_2', '-o', tmp_path)[0] == 0
    log = [{'epoch': i, 'main/loss': 9 / i, 'validation/main/loss': 10 / i} for i in range(1, 6)]
    chromium.execute_cdp_cmd('Emulation.setDeviceMetricsOverride', {
        'width': 360, 'height': 740, 'deviceScaleFactor': 2, 'mobile': True})
    try:
        for path in (tmp_path / 'explorer.html', make(1)[0], make(20, log=log)[0]):
            check(visit(path), 'document.documentElement.scrollWidth', 360)
        assert not chromium.execute_script('return $("curves-figure").hidden')
    finally:
        chromium.execute_cdp_cmd('Emulation.clearDeviceMetricsOverride', {})


def test_nothing_but_its_own_script_may_run(make, visit, chromium):
    chrome = visit(make(2)[0])
    chrome.execute_script('const script = document.createElement("script");'
                          'script.textContent = "window.ran = 1"; document.body.append(script)')
    refused = chrome.execute_async_script(
        'fetch("data:text/plain,x").then(() => arguments[0]("fetched"), () => arguments[0]("no"))')
    assert (chrome.execute_script('return window.ran'), refused) == (None, 'no')
    assert len(chromium.get_log('browser')) >= 2                    # both are reported
    chromium.get_log('performance')


def test_the_digit_stays_in_sight(make, visit):
    chrome = visit(make(2)[0])
    assert chrome.execute_script('return $("float").hidden')
    chrome.execute_script('$("prior").scrollIntoView()')
    time.sleep(0.3)
    settle(chrome)
    assert not chrome.execute_script('return $("float").hidden')
    drag(chrome, '#prior canvas', (0.51, 0.5))
    large, small = (numbers(chrome, f'[...{canvas}.getContext("2d").getImageData(0, 0, 28, 28)'
                            '.data]') for canvas in ('$("digit")', '$("float").firstChild'))
    np.testing.assert_array_equal(large, small)


def test_the_slider_shows_each_epoch_of_the_record(draw, finished, make, visit, tmp_path):
    assert draw('explorer', '-s', finished / 'snapshot_epoch_2', '-o', tmp_path)[0] == 0
    noted = record.read(str(finished), 2)
    chrome = visit(tmp_path / 'explorer.html')
    for epoch, keys in ((2, []), (1, ['ARROW_LEFT']), (0, ['HOME']), (1, ['ARROW_RIGHT'])):
        press(chrome, '#epoch', *keys)
        assert read(chrome, '#epoch-value') == str(epoch)
        np.testing.assert_allclose(numbers(chrome, 'epochs.points[epochs.index]'),
                                   noted[epoch]['mu'], atol=1e-3)
        shown = pixels_of(chrome, 'then')[28:, :28].ravel()         # below its input
        np.testing.assert_allclose(255 * shown, noted[epoch]['reconstruction'][0], atol=1)
        shown = pixels_of(chrome, 'then-samples')[:, 28:56].ravel()
        np.testing.assert_allclose(255 * shown, noted[epoch]['samples'][1], atol=1)
    row = json.loads((finished / 'log').read_text())[0]
    assert said(chrome, '#epoch-terms')[0] == pytest.approx(
        row['validation/main/rec_loss'], abs=0.06)
    click(chrome, '#play-epochs')
    time.sleep(1)
    settle(chrome)
    assert (read(chrome, '#epoch-value'), read(chrome, '#play-epochs')) == ('2', 'play')
    assert chrome.execute_script('return epochs.timer') is None     # it went on to the end, once
    assert visit(make(2)[0]).execute_script('return $("learning").hidden')      # no record
