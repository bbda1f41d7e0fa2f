"""The explorer: choose a picture and a class, move theta, and see every step of a map. `make app` serves it.

view            what a visitor chose, as data that becomes JSON or an address
uploads         a visitor's photo, in memory alone
explanation     all that is computed for a picture; every map is the core's
pictures        arrays -> pictures for a page
page            the page's parts, as HTML made from the view and the explanation
app             the widget, which shows the page and answers its visitor
"""
