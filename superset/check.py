"""What superset/check does in the browser: every chart of the dashboard against the rows of its own query.

Hides Chromium, Superset's pages and ECharts' innards. Promise: a chart passes when what is drawn on it (graphic elements of the
canvas, cells of a table, a big number) is what PostgreSQL answers to the query that Superset sent for it, when the labels of
its time axis are UTC in a browser of another zone, and when it moved while ticks came.
"""
import datetime, json, os, random, re, signal, sys, time, zipfile
import psycopg2, psycopg2.extras, yaml
from playwright.sync_api import sync_playwright

MOVING = {"Candles", "Price", "Volume", "Trades a minute", "Latest prices", "Price and sentiment", "Posts", "Rows a second", "Lag (ms)",
          "Rollups"}
# Answers that are another a moment later, although no tick comes any more: compared with what Superset was told, not asked again.
CLOCKED = {"Rows a second", "Lag (ms)", "Rollups"}
TABS = {"Market": 5, "Sentiment": 2, "Data quality": 7}
checks = 0


def check(ok, what):
    global checks
    checks += 1
    if not ok:
        raise AssertionError(what)


def wait_for(what, seconds, probe):
    """Polls until `probe` answers something true, and returns it."""
    end = time.monotonic() + seconds
    while True:
        value = probe()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"not within {seconds} s: {what}")
        time.sleep(0.2)


class Database:
    """Each statement in a transaction of its own."""

    def __init__(self, conninfo):
        self.connection = psycopg2.connect(conninfo)
        self.connection.autocommit = True

    def rows(self, sql, *parameters):
        with self.connection.cursor() as cursor:
            cursor.execute(sql, parameters or None)
            return cursor.fetchall() if cursor.description else []

    def refused(self, sql):
        try:
            self.rows(sql)
        except psycopg2.Error as error:
            return error.pgcode
        return None


# ---- what the dashboard is to show ---------------------------------------------------------------------------------
def make_history(admin):
    """Nearly three hours that lead up to the first live trade of each symbol, a hole in them, and rows that come after the freeze."""
    symbols = int(admin.rows("SELECT count(*) FROM latest_price")[0][0])
    seed = int(os.environ.get("SEED") or random.randrange(1 << 31))
    print(f"history for {symbols} symbols, SEED={seed}")
    admin.rows("SELECT setseed(%s)", seed / (1 << 31))
    # Backwards from the first trade, so that ids and prices join; calm and busy quarters of an hour take turns.
    admin.rows("""
        CREATE TABLE demo.history AS
        WITH first AS (SELECT DISTINCT ON (exchange, symbol) exchange, symbol, ts, price, trade_id FROM trades
                       ORDER BY exchange, symbol, trade_id),
             steps AS (SELECT f.*, k, (random() - 0.5) * 0.0004 AS step, random() AS dice,
                              1 + 0.6 * sin(k / 300.0 + hashtext(symbol) % 7) AS pause
                       FROM first f, generate_series(1, 10000) k),
             walk AS (SELECT *, ts - sum(pause) OVER back * interval '1 s' AS at, exp(sum(step) OVER back) AS factor
                      FROM steps WINDOW back AS (PARTITION BY exchange, symbol ORDER BY k))
        SELECT exchange, symbol, at AS ts, round((price * factor)::numeric, 2)::float8 AS price,
               round((0.01 + dice * 2)::numeric, 5)::float8 AS qty, trade_id - k AS trade_id, k
        FROM walk""")
    hole = "symbol = 'ETHUSDT' AND k BETWEEN 8001 AND 8012"
    columns = "exchange, symbol, ts, price, qty, trade_id"
    admin.rows(f"INSERT INTO trades ({columns}) SELECT {columns} FROM demo.history WHERE NOT ({hole})")
    check(admin.rows("SELECT tick.wait(NULL, '120 s')")[0][0], "the worker did not merge the history")
    admin.rows("SELECT tick.alter_source('trades', freeze_after => '1 hour')")
    admin.rows(f"INSERT INTO trades ({columns}) SELECT {columns} FROM demo.history WHERE {hole} AND k % 4 = 0")
    check(admin.rows("SELECT tick.wait(NULL, '60 s')")[0][0], "the worker did not merge the late rows")
    admin.rows("""INSERT INTO posts SELECT 'history', symbol, ts, symbol || k, 'somebody', 'a post', sin(k / 700.0 + hashtext(symbol)) * 0.6
                         + (random() - 0.5) * 0.5 FROM demo.history WHERE k % 20 = 0""")
    check(admin.rows("SELECT tick.wait(NULL, '60 s')")[0][0], "the worker did not merge the posts")
    missing, late = admin.rows("SELECT missing, late FROM dashboard.quality WHERE source = 'trades'")[0]
    check(missing == 9 and late == 3, f"{missing} trades missing and {late} rows late, not 9 and 3")


# ---- what is drawn -------------------------------------------------------------------------------------------------
# One chart as it is on the screen. For ECharts: per series its type, its values and how many graphic elements (or points of
# the line) the canvas holds for them; and the labels of the time axis with the time that the axis has there.
READ_CHART = r"""
(holder) => {
  const text = holder.innerText;
  const host = holder.querySelector('[_echarts_instance_]');
  if (host) {
    let chart = null;
    const fibre = Object.keys(host).find(key => key.startsWith('__reactFiber$'));
    for (let node = host[fibre]; node && !chart; node = node.return)
      for (let hook = node.memoizedState; hook && typeof hook === 'object' && !chart; hook = hook.next)
        if (hook.memoizedState && hook.memoizedState.current && typeof hook.memoizedState.current.getZr === 'function')
          chart = hook.memoizedState.current;
    if (!chart) return {text, kind: 'canvas', error: 'no chart behind the canvas'};
    const list = chart.getZr().storage.getDisplayList(true);
    const drawn = new Set();
    for (const element of list)
      if (!element.ignore && !element.invisible) for (let up = element; up; up = up.parent) drawn.add(up);
    const series = [];
    chart.getModel().eachSeries(model => {
      const data = model.getData();
      const values = [], shown = [];
      for (let i = 0; i < data.count(); ++i) {
        const raw = data.getRawDataItem(i);
        values.push({name: data.getName(i), value: raw && raw.value !== undefined ? raw.value : raw});
        const element = data.getItemGraphicEl(i);
        if (element && drawn.has(element)) shown.push(i);
      }
      let points = 0;
      if (model.subType === 'line')
        chart.getViewOfSeriesModel(model).group.traverse(element => {
          if (element.type === 'ec-polyline') points += element.shape.points.length / 2;
        });
      if (model.subType !== 'scatter' || data.count())
        series.push({name: model.name, type: model.subType, values, elements: model.subType === 'line' ? points : shown.length});
    });
    const axis = chart.getModel().getComponent('xAxis', 0);
    const labels = [];
    for (const element of list) {
      const label = element.style && element.style.text;
      if (typeof label !== 'string' || !/^\d\d:\d\d$/.test(label)) continue;
      let top = element;
      while (top.parent) top = top.parent;
      const at = element.transform ? element.transform[4] : element.x;
      labels.push({label, at: axis.axis.type === 'category' ? axis.axis.scale.getOrdinalMeta().categories[
        chart.convertFromPixel({xAxisIndex: 0}, at)] : chart.convertFromPixel({xAxisIndex: 0}, at)});
    }
    return {text, kind: 'canvas', series, axis: axis.axis.type, labels, canvas: [chart.getWidth(), chart.getHeight()]};
  }
  const table = holder.querySelector('table');
  if (table) return {text, kind: 'table', rows: [...holder.querySelectorAll('tbody tr')].map(
      row => [...row.querySelectorAll('td')].map(cell => cell.innerText.trim()))};
  const number = holder.querySelector('.header-line');
  return {text, kind: number ? 'number' : 'nothing', number: number && number.innerText.trim()};
}
"""


class Dashboard:
    """The open page: which charts it has, what is drawn, and what Superset answered to each chart's last request."""

    def __init__(self, page, web):
        self.page, self.web = page, web
        self.answers = {}  # id of the chart: (when it was asked for, status, the answer)
        self.requests = {}
        page.on("requestfinished", self._heard)

    def _heard(self, request):
        found = re.search(r"/api/v1/chart/data\?.*slice_id%22%3A(\d+)", request.url)
        if found:
            answer = request.response()
            asked = request.timing["startTime"] / 1000
            try:
                body = answer.json()
            except Exception as error:  # a page that goes away takes its answers with it
                body = {"message": str(error)}
            self.answers[int(found.group(1))] = (asked, answer.status, body)
            self.requests[int(found.group(1))] = request.post_data_json

    def login(self, password):
        self.page.goto(self.web + "/login/")
        self.page.fill("input[name=username], #username", "admin")
        self.page.fill("input[name=password], #password", password)
        self.page.click("button[type=submit], input[type=submit], [data-test=login-button]")
        self.page.wait_for_url(lambda url: "/login" not in url)

    def open(self):
        self.page.goto(self.web + "/superset/dashboard/pg-tick/")

    def tab(self, name, count):
        self.page.get_by_role("tab", name=name).click()
        wait_for(f"{count} charts on the tab {name}", 300, lambda: len(self.charts()) == count)

    def charts(self):
        """Name and number of each chart of the open tab."""
        return {h.get_attribute("data-test-chart-name"): (int(h.get_attribute("data-test-chart-id")), h)
                for h in self.page.query_selector_all("[data-test-chart-id]") if h.is_visible()}

    def read(self):
        return {name: (number, holder.evaluate(READ_CHART)) for name, (number, holder) in self.charts().items()}


# ---- drawn against asked ---------------------------------------------------------------------------------------------
def utc(milliseconds):
    return datetime.datetime.fromtimestamp(milliseconds / 1000, datetime.timezone.utc)


def milliseconds(moment):
    return round(moment.timestamp() * 1000)


def number(text):
    return float(re.sub(r"[^0-9.eE+-]", "", text.replace("\u2212", "-")) or "nan")


def near(left, right):
    return abs(left - float(right)) <= 1e-9 * max(1.0, abs(float(right)))  # sums of bigint are Decimal


def same(name, drawn, expected, rows=None):
    """Two lists of numbers, in any order of their rows."""
    drawn, expected = sorted(drawn), sorted(expected)
    check(len(drawn) == len(expected) and all(near(x, y) for a, b in zip(drawn, expected) for x, y in zip(a, b)),
          f"{name}: drawn {drawn[:3]}.. ({len(drawn)}), the query says {expected[:3]}.. ({len(expected)})")


def check_axis(name, drawn):
    check(len(drawn["labels"]) >= 3, f"{name}: only {len(drawn['labels'])} times along the axis")
    for label in drawn["labels"]:
        at = label["at"]
        if isinstance(at, str) and not at.isdigit():
            continue  # the categories of boxes are labels already; check_candles compares them
        check(utc(float(at)).strftime("%H:%M") == label["label"], f"{name}: {label['label']} stands where it is {utc(float(at))}")


def check_candles(name, drawn, rows, candles):
    """Every box is a candle: its five values and its minute, as the table of candles has them."""
    (boxes,) = [s for s in drawn["series"] if s["type"] == "boxplot"]
    times = {row["ts"] for row in rows}
    check(len(drawn["series"]) == 1, f"{name}: outliers are drawn")
    check(len(rows) == 5 * len(times) and boxes["elements"] == len(times),
          f"{name}: {boxes['elements']} boxes drawn for {len(rows)} rows of {len(times)} candles")
    same(name, [tuple(box["value"][-8:-3]) for box in boxes["values"]],
         [(c["low"], min(c["open"], c["close"]), (c["open"] + c["close"]) / 2, max(c["open"], c["close"]), c["high"])
          for c in candles if c["ts"] in times])
    check([b["name"] for b in boxes["values"]] == [t.astimezone(datetime.timezone.utc).strftime("%H:%M") for t in sorted(times)],
          f"{name}: the boxes are not labelled by their minutes in UTC, in order")


def check_chart(name, drawn, answer, rows, candles):
    check(not re.search("No data|No results|(Unexpected|Data|Timeout|Network) error|An error", drawn["text"]),
          f"{name}: {drawn['text'][:200]}")
    check(rows, f"{name}: its query has no rows")
    check(drawn["kind"] != "canvas" or drawn.get("series"), f"{name}: {drawn.get('error', 'nothing on the canvas')}")
    if drawn["kind"] == "canvas":
        check_axis(name, drawn)
        if name == "Candles":
            check_candles(name, drawn, rows, candles)
            return len(rows) // 5
        elements = [s["elements"] for s in drawn["series"]]
        check(elements == [len(rows)] * len(elements), f"{name}: {elements} elements drawn for {len(rows)} rows")
        if name == "Trades a minute":
            same(name, [(v["value"][2],) for v in drawn["series"][0]["values"]], [(float(r["trades"]),) for r in rows])
        else:
            for series in drawn["series"]:
                time_of = next(k for k, v in rows[0].items() if isinstance(v, datetime.datetime))
                same(f"{name}, {series['name']}", [tuple(v["value"]) for v in series["values"]],
                     [(milliseconds(r[time_of]), r[series["name"]]) for r in rows])
        return len(rows)
    if drawn["kind"] == "table":
        check(len(drawn["rows"]) == len(rows), f"{name}: {len(drawn['rows'])} lines for {len(rows)} rows")
        for line, row in zip(drawn["rows"], rows):
            for cell, value in zip(line, row.values()):
                if isinstance(value, str):
                    check(cell == value, f"{name}: {cell} is shown for {value}")
                elif isinstance(value, datetime.datetime):
                    check(value.astimezone(datetime.timezone.utc).strftime("%H:%M:%S") in cell, f"{name}: {cell} is shown for {value}")
                elif value is not None and not isinstance(value, bool):
                    digits = len(cell.partition(".")[2])
                    check(abs(number(cell) - float(value)) <= 0.51 * 10 ** -digits or near(number(cell), float(value)),
                          f"{name}: {cell} is shown for {value}")
        return len(rows)
    check(drawn["kind"] == "number", f"{name}: nothing is drawn")
    (value,) = rows[0].values()
    check(len(rows) == 1 and abs(number(drawn["number"]) - float(value)) <= 0.51, f"{name}: {drawn['number']} is shown for {value}")
    return 1


class Look:
    """One look at a tab: each chart, what Superset was told for it, and that both belong together."""

    def __init__(self, dashboard, reader, admin):
        self.dashboard, self.reader, self.admin = dashboard, reader, admin

    def rows(self, name, answer):
        if name in CLOCKED:
            return answer["data"]
        with self.reader.connection.cursor(cursor_factory=psycopg2.extras.RealDictCursor) as cursor:
            cursor.execute(answer["query"].rstrip().rstrip(";"))
            return [dict(row) for row in cursor.fetchall()]

    def every_chart(self, since):
        """Against a database at rest; all answers are younger than `since`."""
        def refreshed():
            return all(self.dashboard.answers.get(n, (0,))[0] > since for n, _ in self.dashboard.charts().values())
        wait_for("a refresh of every chart", 300, lambda: self.dashboard.page.wait_for_timeout(200) or refreshed())
        self.dashboard.page.wait_for_timeout(0)
        # A chart is drawn a moment after its answer has come.
        last = [None]

        def settled():
            now = json.dumps(self.dashboard.read(), sort_keys=True)
            same_again, last[0] = now == last[0], now
            return same_again
        wait_for("charts that stand still", 180, lambda: self.dashboard.page.wait_for_timeout(300) or settled())
        found = {}
        for name, (number_, drawn) in self.dashboard.read().items():
            asked, status, body = self.dashboard.answers[number_]
            check(status == 200, f"{name}: Superset answers {status} {str(body)[:300]}")
            answer, *others = body["result"]
            rows = self.rows(name, answer)
            # A chart of two queries: each series is one query's.
            for other in others:
                (second,) = [s for s in drawn["series"] if s["name"] in other["colnames"]]
                drawn["series"].remove(second)
                check_chart(name, {**drawn, "series": [second]}, other, self.rows(name, other), [])
            symbol = re.search(r"symbol IN \('(\w+)'\)", answer["query"])
            candles = []
            if name == "Candles":
                check(symbol, f"{name}: not of one symbol: {answer['query']}")
                with self.admin.connection.cursor(cursor_factory=psycopg2.extras.RealDictCursor) as cursor:
                    cursor.execute("SELECT ts, open, high, low, close FROM candles_1m WHERE symbol = %s", (symbol.group(1),))
                    candles = cursor.fetchall()
            found[name] = check_chart(name, drawn, answer, rows, candles)
        return found

    def whole_candles(self):
        """The boxes of all times are the newest 120 candles, each with all of its five values."""
        asked = self.dashboard.requests[self.dashboard.charts()["Candles"][0]]
        (query,) = asked["queries"]
        query["time_range"] = "No filter"
        for condition in query["filters"]:
            if condition["op"] == "TEMPORAL_RANGE":
                condition["val"] = "No filter"
        answer = self.dashboard.page.request.post(self.dashboard.web + "/api/v1/chart/data", data=asked).json()["result"][0]
        symbol = re.search(r"symbol IN \('(\w+)'\)", answer["query"]).group(1)
        newest = self.admin.rows("SELECT ts FROM candles_1m WHERE symbol = %s ORDER BY ts DESC", symbol)
        check(len(newest) > 120, "too short a history to ask for more than 120 candles")
        check([box["ts"] for box in answer["data"]] == sorted(milliseconds(ts) for ts, in newest[:120]) and
              all(box["price__count"] == 5 for box in answer["data"]),
              f"{len(answer['data'])} boxes, not the newest 120 candles: {answer['query']}")

    def moves(self):
        """Every chart that ticks move changes what it shows, by the refresh alone."""
        names = MOVING & set(self.dashboard.charts())
        before = {n: json.dumps(d, sort_keys=True) for n, (_, d) in self.dashboard.read().items()}
        still = set(names)

        def moved():
            self.dashboard.page.wait_for_timeout(300)
            still.difference_update([n for n, (_, d) in self.dashboard.read().items() if json.dumps(d, sort_keys=True) != before[n]])
            return not still
        try:
            wait_for("movement", 180, moved)
        except AssertionError:
            raise AssertionError(f"did not move within 180 s: {sorted(still)}")
        check(True, "")
        return names


def shrink(path):
    """A palette of 128 colours: a quarter of the bytes, and no difference to the eye. Without what is empty below."""
    from PIL import Image, ImageChops
    with Image.open(path) as image:
        page = image.convert("RGB")
        ground = Image.new("RGB", page.size, page.getpixel((5, page.height - 1)))
        bottom = min(page.height, ImageChops.difference(page, ground).getbbox()[3] + 20)
        small = page.crop((0, 0, page.width, bottom)).quantize(128, dither=Image.Dither.NONE)
    small.save(path, optimize=True)


def live_page(browser, env):
    """A picture of the page that the ingestor serves, once its candles are drawn."""
    page = browser.new_page(viewport={"width": 1200, "height": 600}, timezone_id="Asia/Kolkata")
    page.goto(re.findall(r"candles on (\S+)", open(env["DEMO"] + "/ingest.log").read())[-1])
    page.wait_for_function("page.series && page.series.data().length > 60")
    page.wait_for_timeout(3000)
    path = env["SHOTS"] + "/live-page.png"
    page.screenshot(path=path)
    shrink(path)
    page.close()


def main():
    env = os.environ
    admin, reader = Database(env["ADMIN"]), Database(env["READER"] + " password=" + env["PASSWORD"])
    wait_for("a trade of every symbol", 60, lambda: admin.rows("SELECT count(*) = 8 FROM latest_price")[0][0])
    make_history(admin)

    reader.rows("SET search_path = dashboard")  # as Superset does, so that names of tables come out the same
    # The role reads, and nothing else, and not for long.
    check(reader.rows("SHOW timezone") == [("UTC",)], "the reading role is not in UTC")
    check(reader.refused("DELETE FROM public.trades") == "25006", "the reading role may delete")
    reader.rows("SET default_transaction_read_only = off")
    for write in ("DELETE FROM public.trades", "INSERT INTO dashboard.candles DEFAULT VALUES", "CREATE TABLE dashboard.mine ()",
                  "SELECT tick.reset('public.trades')", "SELECT tick.drop_rollup('public.candles_1m')"):
        check(reader.refused(write) in ("42501", "55000"), f"the reading role may {write}: {reader.refused(write)}")
    reader.rows("SET default_transaction_read_only = on")
    check(reader.refused("SELECT pg_sleep(30)") == "57014", "statement_timeout does not end a query of the reading role")

    wait_for("Superset", 120, lambda: reachable(env["WEB"]))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=env["CHROMIUM"], args=["--no-sandbox"] if os.getuid() == 0 else [])
        # A zone that is off by half an hour, too: a label of local time cannot pass for UTC.
        context = browser.new_context(timezone_id="Asia/Kolkata", locale="en-GB", viewport={"width": 1500, "height": 1480})
        page = context.new_page()
        page.set_default_timeout(300000)
        dashboard = Dashboard(page, env["WEB"])
        dashboard.login(env["PASSWORD"])
        dashboard.open()
        look = Look(dashboard, reader, admin)
        for tab, count in TABS.items():
            dashboard.tab(tab, count)
            wait_for(f"drawn charts on {tab}", 300, lambda: page.wait_for_timeout(300) or all(
                d["kind"] != "nothing" and "Loading" not in d["text"] for _, d in dashboard.read().values()))
            print(f"{tab}: live, moving: {', '.join(sorted(look.moves()))}")
            path = f"{env['SHOTS']}/superset-{tab.split()[-1].lower()}.png"
            page.mouse.move(0, 0)
            page.screenshot(path=path)
            shrink(path)

        live_page(browser, env)

        # At rest: what is drawn is what the queries answer, and the candles are the table's.
        for pid in (int(open(env["DEMO"] + "/ingest.pid").read().split()[0]), int(env["POSTS"])):
            os.kill(pid, signal.SIGTERM)
            wait_for("the end of tick-ingest", 30, lambda: not running(pid))
        check(admin.rows("SELECT tick.wait(NULL, '60 s')")[0][0], "the worker did not catch up")
        for tab, count in TABS.items():
            dashboard.tab(tab, count)
            found = look.every_chart(time.time())
            check(len(found) == count, f"{tab}: {sorted(found)}")
            if tab == "Market":
                look.whole_candles()
            print(f"{tab}: drawn = rows: " + ", ".join(f"{name} {n}" for name, n in found.items()))
        browser.close()
    for rollup in ("candles_1m", "candles_5m", "latest_price", "posts_1m"):
        differing = admin.rows("SELECT * FROM tick.verify(%s)", rollup)
        check(not differing, f"{rollup} differs from its query: {differing[:3]}")
    print(f"{checks} checks passed")


def reachable(web):
    import urllib.request
    try:
        return urllib.request.urlopen(web + "/health", timeout=5).status == 200
    except OSError:
        return False


def running(pid):
    try:
        return open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


if __name__ == "__main__":
    main()
