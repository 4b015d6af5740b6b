"""The commands of the command line, one module each.

- headline: run the claims of the first command, print each as it comes, and end with one screen
- tables: find tables' jobs, make the tables of their records, write them
- screen: what ``gaugeport tables`` prints at its end
- run: run one job or a sweep, and describe what would be run
- status, report: what is done, and one page with everything
- help: the text of ``gaugeport run --help``, without slow imports

It may import the library and every other package of the pipeline.
"""
